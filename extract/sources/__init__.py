"""The argument DATA becomes a source of images, told by its content."""
