"""Frozen evaluation: probes on fixed features, scores and their uncertainty."""
