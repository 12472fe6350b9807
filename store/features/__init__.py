"""What is stored of a model over a data set, and its rows as blocks."""
