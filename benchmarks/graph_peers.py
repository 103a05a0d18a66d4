"""The graph encoder's function in stock DGL and stock PyTorch Geometric, for graph_bench.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph, Relation, build_graph, import_dgl, schema
from emorec.data.sequences import EventSequences
from emorec.nn.graph_encoder import ConvName

KINDS = [kind.label for kind in Feedback]
RELATIONS = schema()
SIZE = 64


@dataclass(frozen=True)
class Case:
    """What is computed: the convolution, its heads, the layers, and the graph."""

    conv: ConvName
    heads: int
    layers: int
    users: int
    items: int
    events: int

    @property
    def name(self) -> str:
        """Its row in the table."""
        conv = "SAGE" if self.conv == "sage" else f"GAT, {self.heads} head(s)"
        return f"{conv}, {self.layers} layers, {self.events / 1e6:g} M events"


def make_graph(case: Case, seed: int = 0) -> FeedbackGraph:
    """Events with popular items and busy users, none of either without an event of each kind.

    With every kind everywhere a mean over relations is the same number in all libraries.
    """
    rng = np.random.default_rng(seed)
    popularity = rng.permutation(1 / np.arange(1, case.items + 1) ** 0.8)
    activity = np.exp(rng.normal(size=case.users))
    kinds = np.arange(len(KINDS))
    rest = case.events - len(kinds) * (case.users + case.items)
    random_users = rng.choice(
        case.users, rest + len(kinds) * case.items, p=activity / activity.sum()
    )
    random_items = rng.choice(
        case.items, rest + len(kinds) * case.users, p=popularity / popularity.sum()
    )
    user = np.concatenate([np.repeat(np.arange(case.users), len(kinds)), random_users])
    item = np.concatenate(
        [
            random_items[: len(kinds) * case.users],
            np.repeat(np.arange(case.items), len(kinds)),
            random_items[len(kinds) * case.users :],
        ]
    )
    kind = np.concatenate(
        [
            np.tile(kinds, case.users),
            np.tile(kinds, case.items),
            rng.choice(len(kinds), rest, p=[0.35, 0.23, 0.26, 0.16]),
        ]
    ).astype(np.int8)
    order = np.argsort(user, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=case.users))])
    events = EventSequences(offsets, item[order], kind[order], np.arange(len(user)), 86400)
    return build_graph(events, np.arange(case.users), events.lengths, case.items)


class Peer(nn.Module):
    """Layers of another library's convolutions with this project's nonlinearity and LayerNorm.

    Args:
        convs: Per layer a function from vectors by node type to such vectors.
        modules: What to train in them.
        ours: The encoder whose tables to copy.
    """

    def __init__(self, convs: list[Callable], modules: list[nn.Module], ours: Any) -> None:
        super().__init__()
        self.convs = convs
        self.trained = nn.ModuleList(modules)
        users = len(ours.tables["feedback"].weight) // len(KINDS)
        tables = dict(zip(KINDS, ours.tables["feedback"].weight.detach().split(users), strict=True))
        tables["user"] = torch.zeros(users, SIZE)
        if "user" in ours.tables:
            tables["user"] = ours.tables["user"].weight.detach()
        self.tables = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in tables.items()})
        self.norms = nn.ModuleList(
            nn.ModuleDict({k: nn.LayerNorm(SIZE) for k in ("item", "feedback", "user")})
            for _ in convs
        )

    def forward(self, graph: FeedbackGraph, items: Tensor) -> Tensor:
        """Users' vectors, see `emorec.nn.graph_encoder.GraphEncoder`."""
        vectors = {"item": items, **self.tables}
        norms: Any
        for depth, (conv, norms) in enumerate(zip(self.convs, self.norms, strict=True)):
            updated = conv(vectors)
            if depth == len(self.convs) - 1:
                return norms["user"](updated["user"])
            for name, h in updated.items():
                norm = norms[name if name in ("item", "user") else "feedback"]
                updated[name] = norm(F.elu(h))
            vectors = {**vectors, **updated}
        raise AssertionError("no layers")


def relations_of(ours: Any, depth: int, pruned: bool) -> list[Relation]:
    """All relations, or those that lead to types which the encoder's layer updates."""
    if not pruned:
        return RELATIONS
    types = set(ours.layers[depth].norms)
    return [r for r in RELATIONS if (r[2] if r[2] in ("item", "user") else "feedback") in types]


def dgl_peer(graph: FeedbackGraph, ours: Any, case: Case, pruned: bool) -> nn.Module:
    """Stock DGL: HeteroGraphConv of SAGEConv("mean") or GATConv, relations averaged."""
    dgl = import_dgl()
    import dgl.nn as dglnn

    edges = graph.edges
    counts = {kind: len(graph.node_user[kind]) for kind in KINDS}
    nodes = {"item": graph.num_items, "user": len(graph.users), **counts}
    heterograph = dgl.heterograph(edges, num_nodes_dict=nodes)
    heterograph.create_formats_()
    convs: list[Callable] = []
    modules: list[nn.Module] = []
    for depth in range(case.layers):
        layer: dict[str, nn.Module] = {}
        relations = relations_of(ours, depth, pruned)
        for source, name, target in relations:
            if case.conv == "sage":
                conv = dglnn.SAGEConv(SIZE, SIZE, "mean")
                copy_sage(ours, depth, (source, name, target), conv.fc_neigh, conv.fc_self)
            else:
                conv = dglnn.GATConv(
                    (SIZE, SIZE), SIZE // case.heads, case.heads, bias=False,
                    allow_zero_in_degree=True,
                )  # fmt: skip
                copy_gat(
                    ours, depth, (source, name, target), conv.fc_src, conv.fc_dst, conv.attn_l,
                    conv.attn_r,
                )  # fmt: skip
            layer[name] = conv
        module = dglnn.HeteroGraphConv(layer, aggregate="mean")
        part = heterograph if not pruned else dgl.edge_type_subgraph(heterograph, relations)
        if pruned:
            part.create_formats_()
        modules.append(module)
        convs.append(lambda x, m=module, g=part: flat(m(g, {t: x[t] for t in g.ntypes})))
    return Peer(convs, modules, ours)


def pyg_peer(graph: FeedbackGraph, ours: Any, case: Case, pruned: bool) -> nn.Module:
    """Stock PyTorch Geometric: HeteroConv of SAGEConv or GATConv over edge_index."""
    import torch_geometric.nn as pyg  # type: ignore[import-untyped,unused-ignore]

    index = {relation: torch.stack(ends) for relation, ends in graph.edges.items()}
    convs: list[Callable] = []
    modules: list[nn.Module] = []
    for depth in range(case.layers):
        layer: dict[Relation, nn.Module] = {}
        relations = relations_of(ours, depth, pruned)
        for relation in relations:
            if case.conv == "sage":
                conv = pyg.SAGEConv((SIZE, SIZE), SIZE)
                copy_sage(ours, depth, relation, conv.lin_l, conv.lin_r)
            else:
                conv = pyg.GATConv(
                    (SIZE, SIZE), SIZE // case.heads, heads=case.heads, add_self_loops=False,
                    bias=False,
                )  # fmt: skip
                copy_gat(
                    ours, depth, relation, conv.lin_src, conv.lin_dst, conv.att_src, conv.att_dst
                )
            layer[relation] = conv
        module = pyg.HeteroConv(layer, aggr="mean")
        own = {relation: index[relation] for relation in relations}
        modules.append(module)
        convs.append(lambda x, m=module, e=own: m(dict(x), e))
    return Peer(convs, modules, ours)


def flat(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Vectors whose heads are concatenated."""
    return {name: x.flatten(1) for name, x in vectors.items()}


def weights_of(ours: Any, depth: int, relation: Relation) -> tuple[Any, int, str]:
    """The encoder's layer, the relation's kind, and the type that its target is of."""
    source, _, target = relation
    kind = KINDS.index(target if source == "item" else source)
    return ours.layers[depth], kind, target if target in ("item", "user") else "feedback"


@torch.no_grad()
def copy_sage(
    ours: Any, depth: int, relation: Relation, neighbour: nn.Linear, own: nn.Linear
) -> None:
    """Gives a relation of a peer the encoder's weights, if the encoder has any for it."""
    layer, kind, group = weights_of(ours, depth, relation)
    if group not in layer.norms:
        return
    if group == "user":
        neighbour.weight.copy_(layer.to_user.weight[kind])
    else:
        neighbour.weight.copy_(layer.convs[group].project[kind])
    of_self: Any = layer.selves[group]
    k = kind if group == "feedback" else 0
    own.weight.copy_(of_self.weight[k])
    bias: Any = own.bias if own.bias is not None else neighbour.bias
    bias.copy_(of_self.bias[k])


@torch.no_grad()
def copy_gat(
    ours: Any,
    depth: int,
    relation: Relation,
    source: nn.Linear,
    target: nn.Linear,
    attend_source: Tensor,
    attend_target: Tensor,
) -> None:
    """As `copy_sage`; the encoder gets the peer's weight of targets, which it has as a product."""
    layer, kind, group = weights_of(ours, depth, relation)
    if group not in layer.norms:
        return
    if group == "user":
        source.weight.copy_(layer.to_user.weight[kind])
        return
    conv = layer.convs[group]
    source.weight.copy_(conv.project[kind].flatten(0, 1))
    attend_source.copy_(conv.attend_source[kind][None])
    # <b, h> = <attend_target, target(h)>: b in one row of each head, 1 at its place.
    target.weight.zero_()
    attend_target.zero_()
    attend_target[..., 0] = 1
    target.weight.view(*conv.project[kind].shape)[:, 0] = conv.attend_target[kind]
