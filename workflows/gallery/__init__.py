"""Images on pages that load nothing: thumbnails, a map, and findings to decide on."""
