"""Operators and their plain PyTorch references."""

from emorec.ops.hawkes_attention import hawkes_attention

__all__ = ["hawkes_attention"]
