"""A run is brought up to date with its data set, and images are forgotten."""
