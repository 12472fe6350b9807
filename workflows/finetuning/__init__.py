"""Fine-tuning of the network itself, as the baseline for frozen features."""
