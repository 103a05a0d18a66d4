"""Operators and their plain PyTorch references.

The file of an operator is read from top to bottom: formula, call, reference, then shapes and
gradient of the compiled operator, whose schema and kernels are in csrc.
"""

from emorec.ops.graph_attention import graph_attention
from emorec.ops.hawkes_attention import hawkes_attention, hawkes_attention_dense
from emorec.ops.linear import add_linear, norm_linear
from emorec.ops.node_update import node_update
from emorec.ops.softmax_loss import softmax_loss

__all__ = [
    "add_linear",
    "graph_attention",
    "hawkes_attention",
    "hawkes_attention_dense",
    "node_update",
    "norm_linear",
    "softmax_loss",
]
