"""Training: the recipe, augmentation, one step, the loop, checkpoints, validation."""
