"""What trained heads say about new audio: found again, run over it, and written down."""
