"""Which alpha? Merges of the same encoders measured without a checkpoint on disk."""
