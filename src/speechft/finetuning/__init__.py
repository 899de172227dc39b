"""Step one of Speech-FT: stable fine-tuning, its baselines, and self-supervised pre-training."""
