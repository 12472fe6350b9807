"""Figures of merit and drawings of answers that are several labels, or numbers."""
