"""What fine-tuning did to an encoder, layer by layer: a file a measure, one pass for all."""
