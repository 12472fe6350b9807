"""Kinds of images that Pillow does not read: one file on the library of each, bands, and their scale."""
