"""Operators and their plain PyTorch references."""

from emorec.ops.hawkes_attention import hawkes_attention, hawkes_attention_dense

__all__ = ["hawkes_attention", "hawkes_attention_dense"]
