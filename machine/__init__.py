"""The room knows what the computer offers, and when work must stop."""
