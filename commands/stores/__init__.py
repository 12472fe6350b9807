"""Commands that look into a store and keep it whole and small."""
