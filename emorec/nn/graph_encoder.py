"""Graph encoder: relation-specific message passing over the feedback graph (paper, 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph, Relation
from emorec.nn.aggregate import Adjacency, GraphBackend, adjacencies
from emorec.nn.conv import GATConv, KindLinear, SAGEConv
from emorec.nn.dropout import Dropout
from emorec.ops.node_update import node_update

__all__ = ["ConvName", "GraphEncoder"]

ConvName = Literal["sage", "gat"]
_SIGN = {kind.label: 1.0 if kind.is_positive else -1.0 for kind in Feedback}


class GraphEncoder(nn.Module):
    """Stacked layers of per-relation convolutions, aggregated per node.

    One layer, for a node ``v`` of type ``t`` reached by the relations ``R(v)``:

        h'_v = W_t h_v + 1 / |R(v)| * sum_{r in R(v)} m_v^r         (the first term with SAGE only)
        h_v  = dropout(layer_norm(elu(h'_v)))

    With signed aggregation a user gets ``sum_{r positive} w_r m^r - sum_{r negative} w_r m^r`` in
    place of the mean, in every layer and before the nonlinearity; ``w_r > 0`` is learned, 1 at the
    start. The last layer has neither nonlinearity nor dropout: its output enters a dot product,
    which needs both signs.

    A feedback node belongs to one user, so that its message to the user is a projection, with GAT
    too: attention over a single neighbour is 1. Feedback nodes of all kinds share a LayerNorm;
    the maps that follow are each kind's own. A layer updates only what later layers look at, and
    vectors that nothing looks at are not there: with GAT, users' own.

    Node features are learned embeddings. Items' are given. Users and feedback nodes have a row
    per user in the encoder's own tables (paper, 3.1.1), or one row per node type: then a user is
    what the user did, nothing can be learned by heart, and new users need no row.

    Args:
        relations: The graph's relations, see `emorec.data.graph.schema`.
        num_users: Rows of the tables; None for one row that all nodes of a type share.
        size: Width of all vectors, ``D``.
        conv: "sage" or "gat".
        num_layers: Layers.
        num_heads: Heads of GAT.
        signed: Signed aggregation at users.
        dropout: Dropout after each layer but the last.
        half_life: Days after which an event has half its weight in SAGE's means, counted back from
            its user's newest event; 0: all weigh alike.
        backend: "dgl" or "torch"; parameters do not depend on it.
    """

    def __init__(
        self,
        relations: Sequence[Relation],
        num_users: int | None,
        size: int,
        *,
        conv: ConvName = "sage",
        num_layers: int = 2,
        num_heads: int = 1,
        signed: bool = False,
        dropout: float = 0.2,
        half_life: float = 0.0,
        backend: GraphBackend = "dgl",
    ) -> None:
        super().__init__()
        self.backend: GraphBackend = backend
        self.half_life = half_life
        self.relations = list(relations)
        kinds = [target for source, _, target in relations if source == "item"]
        self.reached = "user" if kinds == ["user"] else "feedback"  # type that events reach
        self.num_rows = num_users  # of each kind
        updates, start = _plan(self.reached, conv, num_layers)
        self.needs_full_graph = any("item" in types for types in updates)
        num_kinds = {"user": 1, self.reached: len(kinds)}
        self.tables = nn.ModuleDict(
            {
                name: nn.Embedding(num_kinds[name] * (num_users or 1), size)
                for name in sorted(start - {"item"})
            }
        )
        for weight in self.tables.parameters():  # small, or it would drown the items' mean
            nn.init.normal_(weight, std=0.01)
        self.layers = nn.ModuleList(
            _Layer(types, self.reached, kinds, size, conv, num_heads, signed, dropout, is_last)
            for types, is_last in zip(updates, [False] * (num_layers - 1) + [True], strict=True)
        )

    def forward(self, graph: FeedbackGraph, items: Tensor) -> Tensor:
        """Vectors of the graph's users.

        Args:
            graph: A graph with at least the users wanted. Where ``needs_full_graph``, a user's
                vector depends on other users' events (items are updated by some layer);
                otherwise a graph of the wanted users alone gives them the same vectors.
            items: Item embeddings, ``[I, D]``.

        Returns:
            ``[U, D]``, one row per user node.
        """
        edges = adjacencies(graph, self.backend, self.half_life)
        vectors = {"item": items}
        for name in self.tables:
            table: Any = self.tables[name]
            rows = self._rows(graph, name)
            everything = torch.arange(len(table.weight), device=rows.device)
            # The whole table needs no copy, and its gradient no other table to be added to.
            whole = torch.equal(rows, everything)
            vectors[name] = table.weight if whole else table.weight.index_select(0, rows)
        for layer in self.layers:
            vectors = layer(graph, edges, vectors)
        return vectors["user"]

    def _rows(self, graph: FeedbackGraph, node_type: str) -> Tensor:
        """Row of each node in its type's table, which is sorted by kind, then by user."""
        kind, user = torch.zeros_like(graph.users), graph.users
        if node_type == self.reached:
            kind, user = graph.kind, user[graph.owner]
        return kind if self.num_rows is None else kind * self.num_rows + user


class _Layer(nn.Module):
    """One round of message passing to the given node types."""

    def __init__(
        self,
        types: list[str],
        reached: str,
        kinds: list[str],
        size: int,
        conv: ConvName,
        num_heads: int,
        signed: bool,
        dropout: float,
        is_last: bool,
    ) -> None:
        super().__init__()
        self.reached = reached
        self.is_last = is_last
        self.attends = conv == "gat"
        self.convs, self.selves, self.norms = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.log_weights: nn.Parameter | None = None
        self.sign: Tensor
        for node_type in types:
            if node_type in ("item", reached):
                self.convs[node_type] = (
                    SAGEConv(len(kinds), size)
                    if conv == "sage"
                    else GATConv(len(kinds), size, num_heads)
                )
            else:
                self.to_user = KindLinear(len(kinds), size, bias=False)
                if signed:
                    self.log_weights = nn.Parameter(torch.zeros(len(kinds)))
                    sign = torch.tensor([_SIGN[kind] for kind in kinds])
                    self.register_buffer("sign", sign, persistent=False)
            if conv == "sage":
                num_kinds = len(kinds) if node_type == reached else 1
                self.selves[node_type] = KindLinear(num_kinds, size, bias=True)
            self.norms[node_type] = nn.LayerNorm(size)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        graph: FeedbackGraph,
        edges: tuple[Adjacency, Adjacency],
        vectors: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        updated = dict(vectors)
        for node_type, norm in self.norms.items():
            if self.attends and node_type in self.convs:
                h = self._attend(node_type, graph, edges, vectors)
                y = norm(h if self.is_last else F.elu(h))
            else:
                y = self._update(node_type, graph, edges, vectors)
            updated[node_type] = y if self.is_last else self.dropout(y)
        return updated

    def _attend(
        self,
        node_type: str,
        graph: FeedbackGraph,
        edges: tuple[Adjacency, Adjacency],
        vectors: dict[str, Tensor],
    ) -> Tensor:
        """``h'`` by attention: the mean over the relations that reach each node."""
        into, back = edges
        items, nodes = vectors["item"], vectors[self.reached]
        conv: Any = self.convs[node_type]
        if node_type == self.reached:  # by one relation each
            return conv.to_nodes(into, items, nodes, graph.sizes)
        return conv.to_items(back, items, nodes, graph.sizes) / _num_relations(back, len(items))

    def _update(
        self,
        node_type: str,
        graph: FeedbackGraph,
        edges: tuple[Adjacency, Adjacency],
        vectors: dict[str, Tensor],
    ) -> Tensor:
        """``h`` without dropout, where it is sums of vectors, projected."""
        into, back = edges
        nodes = vectors[self.reached]
        conv: Any = self.convs[node_type] if node_type in self.convs else None
        index: Tensor | None = None
        scale: Tensor | None = None
        if node_type == self.reached:  # by one relation each
            sizes = graph.sizes
            others, weight = conv.to_nodes(into, vectors["item"])
            scale = 1 / into.total_weight[:, None]
        elif node_type == "item":
            sizes = [graph.num_items]
            others, weight = conv.to_items(back, nodes)
            total = back.total_weight.view(graph.num_items, -1)
            scale = 1 / (total * _num_relations(back, graph.num_items))
        else:
            sizes = [len(graph.users)]
            others, weight, index = nodes, self.to_user.weight[None], graph.nodes_of_user
            if self.log_weights is None:
                there = index >= 0
                scale = 1 / there.sum(1, keepdim=True).clamp(min=1).expand_as(there)
            else:
                weight = weight * (self.sign * self.log_weights.exp())[:, None, None]
        norm: Any = self.norms[node_type]
        own: dict[str, Any] = {"own": None, "own_weight": None, "bias": None}
        if node_type in self.selves:
            linear: Any = self.selves[node_type]
            own = {"own": vectors[node_type], "own_weight": linear.weight, "bias": linear.bias}
        return node_update(
            others,
            weight,
            norm.weight,
            norm.bias,
            sizes,
            **own,
            index=index,
            scale=scale,
            elu=not self.is_last,
        )


def _num_relations(back: Adjacency, num_items: int) -> Tensor:
    """How many relations reach each item, ``[I, 1]``; not 0."""
    return (back.in_degree > 0).view(num_items, -1).sum(1, keepdim=True).clamp(min=1)


def _plan(reached: str, conv: ConvName, num_layers: int) -> tuple[list[list[str]], set[str]]:
    """Node types that each layer must update, first layer first, and those that it starts from.

    Going back from the last layer's users, a node looks at the sources of its messages, and at
    itself: in SAGE's self term or in GAT's logits, which a projection does without.
    """
    sources = {"user": {reached}, "item": {reached}, reached: {"item"}}
    if reached == "user":
        del sources["item"]  # without feedback nodes, nothing leads back
    wanted = {"user"}
    updates: list[list[str]] = []
    for _ in range(num_layers):
        updates.insert(0, sorted(wanted & set(sources)))
        for node_type in updates[0]:
            wanted |= sources[node_type]
        if conv == "gat" and reached != "user":
            wanted -= {"user"}  # whose messages are projections
    return updates, wanted
