"""Kernel ridge regression from sums or by FALKON, and the choice of hyperparameters."""
