"""A frozen timm model is loaded and computes features: weights, transform, taps, poolings, forward pass."""
