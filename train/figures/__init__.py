"""Figures of merit and drawings of answers: classes, several labels, or numbers."""
