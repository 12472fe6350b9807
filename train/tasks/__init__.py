"""What a head is to learn: one class an image, several labels, or numbers."""
