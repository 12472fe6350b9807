"""What a run says of images besides a label, resolved against the run, and how well that holds."""
