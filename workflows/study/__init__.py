"""A cross product of trainings that goes on where it stopped."""
