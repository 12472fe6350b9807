"""Commands look into a store, and keep the store whole and small."""
