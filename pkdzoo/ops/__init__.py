"""Pure functions on boxes, priors, levels and ranks; torch and torchvision only."""
