"""What `--head NAME` means: heads made, saved, loaded and tried within a budget."""
