"""Columns of all layers, ranked by the group lasso."""
