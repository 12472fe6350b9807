"""Keeping a store whole and small: verify, repair, remove, collect garbage, measure."""
