"""What a run may say besides a label: sets of labels, novelty, other class frequencies, things, trees."""
