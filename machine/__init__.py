"""What this computer offers, and when work must stop."""
