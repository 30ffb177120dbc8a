"""Pure functions on boxes, priors, levels, masks and ranks; they depend on torch and torchvision only."""
