"""Options that several commands share, and how values are parsed and printed."""
