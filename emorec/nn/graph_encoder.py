"""Graph encoder: relation-specific message passing over the feedback graph (paper, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph, Relation
from emorec.nn.aggregate import Adjacency, GraphBackend, adjacencies
from emorec.nn.conv import GATConv, SAGEConv

__all__ = ["ConvName", "GraphEncoder"]

ConvName = Literal["sage", "gat"]
_NEGATIVE = frozenset(kind.label for kind in Feedback if not kind.is_positive)


class GraphEncoder(nn.Module):
    """Stacked layers of per-relation convolutions, aggregated per node.

    One layer, for a node ``v`` of type ``t`` reached by the relations ``R(v)``:

        h'_v = W_t h_v + 1 / |R(v)| * sum_{r in R(v)} m_v^r         (the first term with SAGE only)
        h_v  = dropout(layer_norm(elu(h'_v)))

    With signed aggregation a user gets ``sum_{r positive} w_r m^r - sum_{r negative} w_r m^r`` in
    place of the mean, in every layer and before the nonlinearity; ``w_r > 0`` is learned, 1 at the
    start. The last layer has neither nonlinearity nor dropout: its output enters a dot product,
    which needs both signs. Node types that no relation reaches keep their vectors.

    Node features are learned embeddings: items' are given, users' and feedback nodes' are rows of
    the encoder's own tables, one per user.

    Args:
        relations: The graph's relations, see `emorec.data.graph.schema`.
        num_users: Rows of the tables.
        size: Width of all vectors, ``D``.
        conv: "sage" or "gat".
        num_layers: Layers.
        num_heads: Heads of GAT.
        signed: Signed aggregation at users.
        dropout: Dropout after each layer but the last.
        backend: "dgl" or "torch"; parameters do not depend on it.
    """

    def __init__(
        self,
        relations: Sequence[Relation],
        num_users: int,
        size: int,
        *,
        conv: ConvName = "sage",
        num_layers: int = 2,
        num_heads: int = 1,
        signed: bool = False,
        dropout: float = 0.2,
        backend: GraphBackend = "dgl",
    ) -> None:
        super().__init__()
        self.relations = list(relations)
        self.backend: GraphBackend = backend
        types = {end for source, _, target in relations for end in (source, target)}
        self.tables = nn.ModuleDict(
            {name: nn.Embedding(num_users, size) for name in sorted(types - {"item"})}
        )
        for weight in self.tables.parameters():  # small, or it would drown the items' mean
            nn.init.normal_(weight, std=0.01)
        self.layers = nn.ModuleList()
        self.needed = _needed_relations(self.relations, num_layers)
        for depth in range(num_layers):
            active = self.needed[depth]
            self.layers.append(
                _Layer(
                    active, size, conv, num_heads, signed, dropout, is_last=depth == num_layers - 1
                )
            )

    @property
    def needs_full_graph(self) -> bool:
        """Whether a user's vector depends on other users' events.

        It does once a needed relation leads into items; otherwise a graph of the wanted users
        alone gives them the same vectors.
        """
        return any(target == "item" for active in self.needed for _, _, target in active)

    def forward(self, graph: FeedbackGraph, items: Tensor) -> Tensor:
        """Vectors of the graph's users.

        Args:
            graph: A graph with at least the users wanted; see `needs_full_graph`.
            items: Item embeddings, ``[I, D]``.

        Returns:
            ``[U, D]``, one row per user node.
        """
        edges = adjacencies(graph, self.backend)
        vectors = {"item": items}
        for name, table in self.tables.items():
            vectors[name] = table(graph.users[graph.node_user[name]])
        for layer in self.layers:
            vectors = layer(edges, vectors)
        return vectors["user"]


class _Layer(nn.Module):
    """One round of message passing along the relations that later layers need."""

    def __init__(
        self,
        relations: list[Relation],
        size: int,
        conv: ConvName,
        num_heads: int,
        signed: bool,
        dropout: float,
        is_last: bool,
    ) -> None:
        super().__init__()
        self.relations = relations
        self.signed = signed
        self.is_last = is_last
        targets = sorted({target for _, _, target in relations})
        self.convs = nn.ModuleDict(
            {
                name: SAGEConv(size) if conv == "sage" else GATConv(size, num_heads)
                for _, name, _ in relations
            }
        )
        self.selves = nn.ModuleDict({t: nn.Linear(size, size) for t in targets if conv == "sage"})
        self.norms = nn.ModuleDict({target: nn.LayerNorm(size) for target in targets})
        self.log_weights = nn.ParameterDict(
            {
                name: nn.Parameter(torch.zeros(()))
                for _, name, target in relations
                if signed and target == "user"
            }
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, edges: dict[Relation, Adjacency], vectors: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        updated = dict(vectors)
        for node_type, norm in self.norms.items():
            h = self._aggregate(node_type, edges, vectors)
            if node_type in self.selves:
                h = h + self.selves[node_type](vectors[node_type])
            updated[node_type] = norm(h) if self.is_last else self.dropout(norm(F.elu(h)))
        return updated

    def _aggregate(
        self, node_type: str, edges: dict[Relation, Adjacency], vectors: dict[str, Tensor]
    ) -> Tensor:
        total = torch.zeros_like(vectors[node_type])  # [V, D]
        reached = total.new_zeros(len(total), 1)
        signed = self.signed and node_type == "user"
        for relation in self.relations:
            source, name, target = relation
            if target != node_type:
                continue
            message = self.convs[name](edges[relation], vectors[source], vectors[target])
            if signed:
                sign = -1 if source in _NEGATIVE else 1
                message = sign * self.log_weights[name].exp() * message
            total = total + message
            reached = reached + (edges[relation].in_degree > 0)[:, None]
        return total if signed else total / reached.clamp(min=1)


def _needed_relations(relations: Sequence[Relation], num_layers: int) -> list[list[Relation]]:
    """Relations of each layer that the last layer's users depend on, first layer first."""
    needed: list[list[Relation]] = []
    wanted = {"user"}
    for _ in range(num_layers):
        active = [relation for relation in relations if relation[2] in wanted]
        needed.insert(0, active)
        wanted |= {source for source, _, _ in active}
    return needed
