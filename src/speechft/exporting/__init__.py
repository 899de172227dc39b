"""Encoders with their heads as transformers loads them."""
