"""From images to embeddings: extraction, its batch-independence check, and resuming it."""
