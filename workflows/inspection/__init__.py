"""A data set is looked at: duplicates, leaks, labels that are probably wrong, outliers, odd images."""
