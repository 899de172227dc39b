"""Checkpoints of any format as lazily read tensors under Hugging Face names; no torch on import."""
