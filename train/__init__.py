"""toptune."""
