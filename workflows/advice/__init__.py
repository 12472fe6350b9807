"""Measured figures decide whether to keep the backbone frozen or to fine-tune it."""
