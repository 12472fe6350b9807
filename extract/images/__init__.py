"""What a source of images is, and what every kind of source shares."""
