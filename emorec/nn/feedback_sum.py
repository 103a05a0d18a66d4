"""A graph encoder of one layer: users as weighted sums over their feedback nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph, Relation
from emorec.nn.aggregate import GraphBackend, adjacencies

__all__ = ["FeedbackSum"]

_POSITIVE, _NEGATIVE = 1.0, 0.3  # the relations' weights at the start
_TINY = torch.finfo(torch.float32).tiny


class FeedbackSum(nn.Module):
    """Sums the items of each feedback node, then a user's feedback nodes by a weight per relation.

        x_u = scale / sqrt(n_u) * sum_k w_k sum_{i in N(u, k)} c_i source_i
        c_i = exp(-newer_i / decay_length)                     n_u = sum_k sum_{i in N(u, k)} c_i
        score_i = <x_u, target_i> + bias_i

    where ``N(u, k)`` are the items of the user's feedback node of kind ``k``, and ``newer_i`` is
    the number of the user's events after that with ``i``. The weights are learned and may become
    negative, but at small learning rates they stay near their start, 1 for positive and 0.3 for
    negative feedback. In training ``c`` is 1, as events are predicted from earlier and later ones.

    Each item has a source vector for sums, apart from its target vector for scores: what an item
    tells about its users differs from what predicts that a user will like it.

    A user's vector depends on the user's events alone, so new users and new events need no
    training. The square root is a compromise between a mean, whose scores would not grow against
    the items' biases as a history grows, and a sum, whose scores would outweigh them.

    Args:
        relations: The graph's relations, see `emorec.data.graph.schema`.
        num_items: Size of the catalogue, ``I``.
        size: Width of all vectors, ``D``.
        backend: "dgl" or "torch"; parameters do not depend on it.

    Attributes:
        source: Source vectors, ``[I, D]``.
        target: Target vectors, ``[I, D]``.
        bias: Biases of items, ``[I]``.
        kind_weight: Weight of each kind of feedback, ``[R]``.
        scale: Scalar; `emorec.training.start` sets it.
        decay_length: Number of newer events after which an event contributes 1/e; inf: all events
            contribute alike. Validation chooses it, see `emorec.training.tuning`.
        ranking_weight: Factor of the scores in the ranking, likewise.
    """

    decay_length: Tensor
    ranking_weight: Tensor

    def __init__(
        self,
        relations: Sequence[Relation],
        num_items: int,
        size: int,
        *,
        backend: GraphBackend = "dgl",
    ) -> None:
        super().__init__()
        self.backend: GraphBackend = backend
        self.relations = list(relations)
        self.source = nn.Embedding(num_items, size)
        self.target = nn.Embedding(num_items, size)
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=0.1)
        self.bias = nn.Parameter(torch.zeros(num_items))
        kinds = [target for source, _, target in relations if source == "item"]
        positive = [k == "user" or Feedback.from_label(k).is_positive for k in kinds]
        start = [_POSITIVE if each else _NEGATIVE for each in positive]
        self.kind_weight = nn.Parameter(torch.tensor(start))
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("decay_length", torch.tensor(math.inf))
        self.register_buffer("ranking_weight", torch.ones(()))

    def forward(self, graph: FeedbackGraph, source: Tensor | None = None) -> Tensor:
        """Vectors of the graph's users, ``[U, D]``; zeros for a user without events.

        Args:
            graph: The graph.
            source: Source vectors of the graph's items; None: those of the whole catalogue.
        """
        source = self.source.weight if source is None else source
        edges, _ = adjacencies(graph, self.backend)
        if not self.training and self.decay_length < math.inf:
            edges = replace(edges, weight=torch.exp(-graph.num_newer / self.decay_length))
        nodes = edges.sum(source) * self.kind_weight[graph.kind][:, None]  # [F, D]
        num_users = len(graph.users)
        total = nodes.new_zeros(num_users, nodes.shape[1]).index_add(0, graph.owner, nodes)
        count = nodes.new_zeros(num_users)
        count.index_add_(0, graph.owner, edges.total_weight.to(count.dtype))
        return total * (self.scale / count.clamp(min=_TINY).sqrt())[:, None]

    def scores(self, vectors: Tensor, items: slice = slice(None)) -> Tensor:
        """Scores of all items, ``[U, I]``, or of a slice of them, for users' vectors ``[U, D]``."""
        return torch.addmm(self.bias[items], vectors, self.target.weight[items].T)
