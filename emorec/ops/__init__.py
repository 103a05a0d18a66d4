"""Operators and their plain PyTorch references."""
