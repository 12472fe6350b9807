"""Placeholder until the commands are written."""
