"""A frozen timm model: weights, transform, taps, poolings and one forward pass."""
