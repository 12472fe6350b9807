"""Estimators with scikit-learn's conventions on blocks of rows, one a file."""
