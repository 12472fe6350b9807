"""Fitted steps between stored features and a head."""
