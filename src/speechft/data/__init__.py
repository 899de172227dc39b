"""From recordings to batches: corpora, manifests, labels, batching, acoustic augmentation."""
