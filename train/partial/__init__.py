"""Fits to blocks of rows as they come, from sums that only grow."""
