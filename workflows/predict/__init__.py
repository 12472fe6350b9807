"""Images become labels: by a head on a frozen backbone, or by a fine-tuned network."""
