"""Estimators with scikit-learn's conventions that read their rows block after block, one estimator a file."""
