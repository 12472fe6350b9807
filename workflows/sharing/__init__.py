"""Runs are handed on through the Hugging Face hub: safetensors, JSON and a model card, nothing executable."""
