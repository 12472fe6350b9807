"""The network itself trained, as the baseline of frozen features."""
