"""Commands that turn images into stored features."""
