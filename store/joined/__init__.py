"""Features of several backbones over one data set are read as one table."""
