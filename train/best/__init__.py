"""Which run to train of what is stored: as asked, or the best of all models, layers, heads and fusions."""
