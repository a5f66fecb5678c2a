"""What training reads: the packed images, the meta classes, batches."""
