"""Passes over training rows: the only places that touch the data."""
