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

    where ``N(u, k)`` are the items of the user's feedback node of kind ``k``, and ``newer_i`` is
    the number of the user's events after that with ``i``. The weights are learned and may become
    negative, but at small learning rates they stay near their start, 1 for positive and 0.3 for
    negative feedback. In training ``c`` is 1, as events are predicted from earlier and later ones.

    Each item has a source vector for sums, apart from its embedding for scores: what an item tells
    about its users differs from what predicts that a user will like it.

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
        weight: Weight of each kind of feedback, ``[R]``.
        scale: Scalar; `emorec.training.start` sets it.
        decay_length: Number of newer events after which an event contributes 1/e; inf: all events
            contribute alike. Validation chooses it, see `emorec.training.tuning`.
    """

    decay_length: Tensor

    needs_full_graph = False
    num_rows = None  # no table of users

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
        nn.init.normal_(self.source.weight, std=0.1)
        kinds = [target for source, _, target in relations if source == "item"]
        positive = [k == "user" or Feedback.from_label(k).is_positive for k in kinds]
        self.weight = nn.Parameter(torch.tensor([_POSITIVE if p else _NEGATIVE for p in positive]))
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("decay_length", torch.tensor(math.inf))

    def forward(self, graph: FeedbackGraph, items: Tensor) -> Tensor:
        """Vectors of the graph's users.

        Args:
            graph: A graph of the wanted users.
            items: The embeddings of items, which only other graph encoders start from.

        Returns:
            ``[U, D]``; zeros for a user without events.
        """
        edges, _ = adjacencies(graph, self.backend)
        if not self.training and self.decay_length < math.inf:
            edges = replace(edges, weight=torch.exp(-graph.num_newer / self.decay_length))
        nodes = edges.sum(self.source.weight) * self.weight[graph.kind][:, None]  # [F, D]
        num_users = len(graph.users)
        total = nodes.new_zeros(num_users, nodes.shape[1]).index_add(0, graph.owner, nodes)
        count = nodes.new_zeros(num_users)
        count.index_add_(0, graph.owner, edges.total_weight.to(count.dtype))
        return total * (self.scale / count.clamp(min=_TINY).sqrt())[:, None]
