"""Features to and from elsewhere: copies, exports and imports."""
