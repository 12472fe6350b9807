"""The network itself is fine-tuned, as the baseline for frozen features."""
