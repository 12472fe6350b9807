"""Softmax regression along a path of penalties."""
