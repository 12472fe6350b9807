"""Regressors with scikit-learn's conventions that read their rows block after block, one a file."""
