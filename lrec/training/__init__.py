"""Training: the recipe, random changes of images, one step, the loop, checkpoints, validation."""
