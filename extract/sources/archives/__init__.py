"""Images in tar shards and zip archives."""
