"""Features of frozen encoders: extraction, pooling, the learnable weighted sum."""
