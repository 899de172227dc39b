"""Verbs that are killed, stopped and starved at random moments."""
