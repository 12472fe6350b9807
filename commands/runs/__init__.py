"""Commands that train, score, compare and report."""
