"""Several backbones in one run."""
