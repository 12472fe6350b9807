"""What was asked of an extraction and what of it is stored already, told without torch."""
