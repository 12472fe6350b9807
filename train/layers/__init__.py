"""How well each layer does, and which layers to train on."""
