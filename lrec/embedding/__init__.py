"""From images to embeddings: extraction, resuming, reduction, codes, and the batch-independence check."""
