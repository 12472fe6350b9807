"""Kernels, their centers, and the feature maps that both make."""
