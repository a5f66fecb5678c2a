"""The input of training: packed images, meta classes and batches."""
