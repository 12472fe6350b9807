"""Which rows train and test, their folds and labels, and blocks on their way to a solver."""
