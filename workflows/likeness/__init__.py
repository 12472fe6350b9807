"""Images that are like given ones: nearest stored images, and training images that carried a prediction."""
