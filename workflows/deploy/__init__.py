"""A run is exported as one file that needs no toptune."""
