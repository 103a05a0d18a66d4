from __future__ import annotations

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emorec.data.feedback import Feedback
from emorec.data.graph import build_graph, schema
from emorec.data.sequences import EventSequences
from emorec.nn.graph_encoder import GraphEncoder
from tests.small import random_events, small_log

NUM_USERS, NUM_ITEMS, SIZE = 7, 9, 16
EVENTS = random_events(NUM_USERS, NUM_ITEMS)
NEGATIVE = {kind.label for kind in Feedback if not kind.is_positive}


def full_graph(events=EVENTS, feedback_nodes=True):
    users = np.arange(events.num_users)
    return build_graph(events, users, events.lengths, NUM_ITEMS, feedback_nodes=feedback_nodes)


def make_encoder(feedback_nodes=True, **options):
    options = {"backend": "torch", **options}
    encoder = GraphEncoder(schema(feedback_nodes), NUM_USERS, SIZE, **options)
    for parameter in encoder.parameters():  # ones and zeros would hide mistakes
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


ITEMS = torch.randn(NUM_ITEMS, SIZE, generator=torch.Generator().manual_seed(1))


def layer_norm(h, norm):
    mean, variance = h.mean(-1, keepdims=True), h.var(-1, keepdims=True)
    gain, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    return (h - mean) / np.sqrt(variance + norm.eps) * gain + bias


def slow_weights(graph, relation, half_life):
    """``2^(-age / half_life)`` of a relation's events, by their user's newest of any kind."""
    at_node = relation[0] == "item"  # the end that a user owns
    owner = graph.node_user[relation[2 if at_node else 0]][graph.edges[relation][at_node]]
    newest = EVENTS.time[EVENTS.offsets[1:] - 1]  # no edge asks for that of a user without events
    seconds = newest[owner.numpy()] - graph.time[relation].numpy()
    return 0.5 ** (seconds / 86400 / half_life)


def slow_message(conv, kind, source, target, edges, v, weights):
    """One node's message in one relation, or None if nothing reaches it."""
    neighbours = [u for u, end in edges if end == v]
    if not neighbours:
        return None
    weight = conv.project.detach().numpy()[kind]
    if not hasattr(conv, "attend_source"):
        own = [w for w, (_, end) in zip(weights, edges, strict=True) if end == v]
        return np.average(source[neighbours] @ weight.T, axis=0, weights=own)
    parts = []
    for head in range(len(weight)):  # of [H, D / H, D]
        z = source @ weight[head].T
        a = conv.attend_source.detach().numpy()[kind, head]
        b = conv.attend_target.detach().numpy()[kind, head]
        e = np.array([a @ z[u] + b @ target[v] for u in neighbours])
        weights = np.exp(np.where(e > 0, e, 0.2 * e))
        parts.append(weights / weights.sum() @ z[neighbours])
    return np.concatenate(parts)


def slow_projection(linear, kind, source, edges, v):
    """The message of a user's feedback node, or None if there is none."""
    rows = [u for u, end in edges if end == v]
    return source[rows[0]] @ linear.weight.detach().numpy()[kind].T if rows else None


def slow_encoder(encoder, graph, items, signed, half_life=np.inf):
    """The docstring's formula with loops over layers, node types, nodes and relations."""
    kinds = list(graph.num_nodes)
    has_feedback = "user" not in kinds
    vectors = {"item": items.numpy()}
    for name, table in encoder.tables.items():
        rows = table.weight.detach().numpy()
        if name == "feedback":
            for k, kind in enumerate(kinds):
                vectors[kind] = rows[k * NUM_USERS + graph.users[graph.node_user[kind]].numpy()]
        else:
            vectors[name] = rows[graph.users.numpy()]
    for depth, layer in enumerate(encoder.layers):
        updated = dict(vectors)
        for group, norm in layer.norms.items():
            for node_type in kinds if group == "feedback" else [group]:
                number = graph.num_items if node_type == "item" else len(graph.node_user[node_type])
                out = np.zeros((number, SIZE))
                for v in range(number):
                    messages = {}
                    for relation, (source, target) in graph.edges.items():
                        if relation[2] != node_type:
                            continue
                        edges = list(zip(source.tolist(), target.tolist(), strict=True))
                        kind = kinds.index(relation[2] if relation[0] == "item" else relation[0])
                        if has_feedback and node_type == "user":
                            part = slow_projection(
                                layer.to_user, kind, vectors[relation[0]], edges, v
                            )
                        else:
                            ends = vectors[relation[0]], vectors[node_type]
                            weights = slow_weights(graph, relation, half_life)
                            part = slow_message(layer.convs[group], kind, *ends, edges, v, weights)
                        if part is not None:
                            messages[kind] = part
                    if signed and node_type == "user":
                        for kind, message in messages.items():
                            weight = np.exp(layer.log_weights[kind].item())
                            out[v] += (-1 if kinds[kind] in NEGATIVE else 1) * weight * message
                    elif messages:
                        out[v] = sum(messages.values()) / len(messages)
                    if group in layer.selves:
                        own = layer.selves[group]
                        kind = kinds.index(node_type) if node_type in kinds else 0
                        out[v] += own.weight.detach().numpy()[kind] @ vectors[node_type][v]
                        out[v] += own.bias.detach().numpy()[kind]
                if depth < len(encoder.layers) - 1:
                    out = np.where(out > 0, out, np.expm1(np.minimum(out, 0)))
                updated[node_type] = layer_norm(out, norm)
        vectors = updated
    return vectors["user"]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("conv", "num_heads"), [("sage", 1), ("gat", 1), ("gat", 2)])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_formula(signed, conv, num_heads, num_layers):
    encoder = make_encoder(conv=conv, num_heads=num_heads, num_layers=num_layers, signed=signed)
    graph = full_graph()
    expected = slow_encoder(encoder, graph, ITEMS, signed)
    np.testing.assert_allclose(encoder(graph, ITEMS).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("conv", "num_heads"), [("sage", 1), ("gat", 2)])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_formula_without_feedback_nodes(conv, num_heads, num_layers):
    options = {"conv": conv, "num_heads": num_heads, "num_layers": num_layers}
    encoder = make_encoder(feedback_nodes=False, **options)
    graph = full_graph(feedback_nodes=False)
    expected = slow_encoder(encoder, graph, ITEMS, signed=False)
    np.testing.assert_allclose(encoder(graph, ITEMS).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("feedback_nodes", "num_layers"), [(True, 2), (True, 3), (False, 1), (False, 2)]
)
def test_formula_with_decay(feedback_nodes, num_layers):
    options = {"feedback_nodes": feedback_nodes, "num_layers": num_layers}
    encoder = make_encoder(half_life=1000.0, **options)  # the events span thirty years
    graph = full_graph(feedback_nodes=feedback_nodes)
    expected = slow_encoder(encoder, graph, ITEMS, signed=False, half_life=1000.0)
    np.testing.assert_allclose(encoder(graph, ITEMS).detach(), expected, rtol=1e-4, atol=1e-5)
    encoder.half_life = 0.0
    assert not np.allclose(encoder(graph, ITEMS).detach(), expected, atol=1e-2)


def test_with_a_half_life_of_a_minute_the_last_event_of_its_kind_speaks_alone():
    encoder = make_encoder(half_life=1 / 1440)
    rows = [(0, 3, 0, 0), (0, 4, 0, 3600), (1, 5, 0, 0), (1, 5, 3, 7200)]
    all_events, last = (
        EventSequences.build(small_log(part, NUM_USERS, NUM_ITEMS)) for part in (rows, rows[1:])
    )
    expected = encoder(full_graph(last), ITEMS)
    torch.testing.assert_close(encoder(full_graph(all_events), ITEMS), expected)
    encoder.half_life = 1.0
    assert not torch.allclose(encoder(full_graph(all_events), ITEMS), expected, atol=1e-2)


@pytest.mark.parametrize("feedback_nodes", [True, False])
@pytest.mark.parametrize("conv", ["sage", "gat"])
@pytest.mark.parametrize("num_layers", [1, 2, 3, 4])
def test_nothing_is_computed_that_nothing_needs(feedback_nodes, conv, num_layers):
    """Every parameter learns: none is there for a vector that the users' do not depend on."""
    options = {"conv": conv, "num_layers": num_layers, "feedback_nodes": feedback_nodes}
    learned = set()
    for seed in range(5):
        torch.manual_seed(seed)
        encoder = make_encoder(**options).double()
        for name, parameter in encoder.named_parameters():
            if "attend_target" in name:  # they count where neighbours are on both sides of the bend
                parameter.data.mul_(0.1)
        graph = full_graph(feedback_nodes=feedback_nodes)
        encoder(graph, ITEMS.double()).pow(3).sum().backward()
        for name, parameter in encoder.named_parameters():
            if parameter.grad is not None and parameter.grad.abs().sum() > 1e-9:
                learned.add(name)
    assert learned == {name for name, _ in encoder.named_parameters()}


def test_tables_start_small_beside_the_items():
    encoder = GraphEncoder(schema(), 500, SIZE, backend="torch")
    for table in encoder.tables.values():
        assert table.weight.detach().std().item() == pytest.approx(0.01, rel=0.05)


def test_tables_with_gat():
    assert list(make_encoder(conv="gat").tables) == ["feedback"]
    assert list(make_encoder(conv="sage").tables) == ["feedback", "user"]
    assert list(make_encoder(conv="gat", feedback_nodes=False).tables) == ["user"]


class TestSharedRows:
    @pytest.mark.parametrize("conv", ["sage", "gat"])
    def test_one_row_per_kind_and_one_for_users(self, conv):
        encoder = GraphEncoder(schema(), None, SIZE, conv=conv, backend="torch").eval()
        own = make_encoder(conv=conv)
        for name, table in encoder.tables.items():
            assert len(table.weight) == (4 if name == "feedback" else 1)
        state = encoder.state_dict()
        for name in encoder.tables:
            state[f"tables.{name}.weight"] = state[f"tables.{name}.weight"].repeat_interleave(
                NUM_USERS, 0
            )
        own.load_state_dict(state)
        torch.testing.assert_close(encoder(full_graph(), ITEMS), own(full_graph(), ITEMS))


class TestSigned:
    # One user likes item 0 and dislikes item 1.
    EVENTS = EventSequences.build(small_log([(0, 0, 0, 1), (0, 1, 3, 2)], 1, 2))
    LIKE, DISLIKE = 0, 3

    def encoder(self):
        """One layer that hands through what feedback nodes know, but for its LayerNorm."""
        encoder = GraphEncoder(
            schema(), 1, SIZE, num_layers=1, signed=True, backend="torch", dropout=0.0
        )
        (layer,) = encoder.layers
        with torch.no_grad():
            layer.to_user.weight.copy_(torch.eye(SIZE).expand(4, SIZE, SIZE))
        for parameter in layer.selves.parameters():
            torch.nn.init.zeros_(parameter)
        return encoder

    def row(self, encoder, kind):
        return encoder.tables["feedback"].weight[kind].detach().clone()

    def check(self, encoder, h):
        found = encoder(full_graph(self.EVENTS), ITEMS).detach()[0]
        torch.testing.assert_close(found, F.layer_norm(h, (SIZE,)))

    def test_negative_messages_push_the_user_away(self):
        encoder = self.encoder()
        like, dislike = self.row(encoder, self.LIKE), self.row(encoder, self.DISLIKE)
        self.check(encoder, like - dislike)
        step = torch.linspace(-1, 1, SIZE)
        with torch.no_grad():
            encoder.tables["feedback"].weight[self.DISLIKE] += step
        self.check(encoder, like - dislike - step)

    def test_weights_scale_their_relation(self):
        encoder = self.encoder()
        like, dislike = self.row(encoder, self.LIKE), self.row(encoder, self.DISLIKE)
        with torch.no_grad():
            encoder.layers[0].log_weights[self.DISLIKE] = np.log(3.0)
        self.check(encoder, like - 3 * dislike)

    def test_weights_start_at_one_and_learn(self):
        encoder = GraphEncoder(schema(), NUM_USERS, SIZE, signed=True, backend="torch")
        for layer in encoder.layers:
            assert layer.log_weights.tolist() == [0, 0, 0, 0]
        encoder(full_graph(), ITEMS).pow(3).sum().backward()
        assert (encoder.layers[-1].log_weights.grad != 0).all()

    def test_off_means_no_weights(self):
        assert not any("log_weights" in name for name in make_encoder().state_dict())


@pytest.mark.parametrize("conv", ["sage", "gat"])
def test_a_kind_that_the_user_never_gave_says_nothing(conv):
    encoder = make_encoder(conv=conv)
    graph = full_graph()
    before = encoder(graph, ITEMS)
    for kind in Feedback:
        owners = set(graph.node_user[kind.label].tolist())
        with torch.no_grad():
            encoder.layers[-1].to_user.weight[kind] *= 2.0
        after = encoder(graph, ITEMS)
        changed = set((after - before).abs().sum(1).gt(1e-6).nonzero()[:, 0].tolist())
        assert changed == owners, kind
        before = after


class TestBlocks:
    @pytest.mark.parametrize(
        ("feedback_nodes", "num_layers", "expected"),
        [(True, 1, False), (True, 2, False), (True, 3, True), (True, 4, True), (False, 3, False)],
    )
    def test_needs_full_graph(self, feedback_nodes, num_layers, expected):
        encoder = make_encoder(feedback_nodes=feedback_nodes, num_layers=num_layers)
        assert encoder.needs_full_graph is expected

    @pytest.mark.parametrize(("feedback_nodes", "num_layers"), [(True, 2), (False, 3)])
    @pytest.mark.parametrize(
        "options", [{"conv": "sage"}, {"conv": "sage", "half_life": 1000.0}, {"conv": "gat"}]
    )
    @pytest.mark.parametrize("users", [[5, 0, 6, 5], [6, 5, 4, 3, 2, 1, 0]])
    def test_a_block_of_users_gives_their_rows_of_the_full_graph(
        self, feedback_nodes, num_layers, options, users
    ):
        encoder = make_encoder(
            feedback_nodes=feedback_nodes, num_layers=num_layers, signed=feedback_nodes, **options
        )
        users = np.array(users)
        block = build_graph(
            EVENTS, users, EVENTS.lengths[users], NUM_ITEMS, feedback_nodes=feedback_nodes
        )
        whole = encoder(full_graph(feedback_nodes=feedback_nodes), ITEMS)
        torch.testing.assert_close(encoder(block, ITEMS), whole[users])

    def test_with_three_layers_other_users_matter(self):
        encoder = make_encoder(num_layers=3)
        users = np.array([0])
        block = build_graph(EVENTS, users, EVENTS.lengths[users], NUM_ITEMS)
        assert not torch.allclose(encoder(block, ITEMS)[0], encoder(full_graph(), ITEMS)[0])


class TestBackends:
    @pytest.mark.parametrize("conv", ["sage", "gat"])
    def test_a_step_on_a_tiny_graph_is_mostly_free(self, conv):
        """Some 2 ms of dispatch in a quiet process; the bound leaves room for a busy machine."""
        encoder, graph = make_encoder(conv=conv), full_graph()
        seconds = []
        for _ in range(20):
            start = time.process_time()
            encoder(graph, ITEMS).sum().backward()
            seconds.append(time.process_time() - start)
        assert min(seconds) < 0.01

    @pytest.mark.parametrize(
        "options", [{"conv": "sage"}, {"conv": "sage", "half_life": 1000.0}, {"conv": "gat"}]
    )
    def test_same_parameters_same_vectors_and_gradients(self, options):
        pytest.importorskip("dgl")
        options = {"num_heads": 2, "num_layers": 3, "signed": True, **options}
        ours = make_encoder(backend="torch", **options)
        theirs = make_encoder(backend="dgl", **options)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        theirs.load_state_dict(ours.state_dict())
        graph = full_graph()
        upstream = torch.randn(NUM_USERS, SIZE)
        results = []
        for encoder in (ours, theirs):
            items = ITEMS.clone().requires_grad_()
            vector = encoder(graph, items)
            (vector * upstream).sum().backward()
            results.append((vector, items.grad))
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        gradients = (dict(encoder.named_parameters()) for encoder in (ours, theirs))
        for one, other in zip(*(g.values() for g in gradients), strict=True):
            if one.grad is not None or other.grad is not None:
                torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_a_table_that_is_wanted_whole_is_not_copied_and_learns():
    rows = [(user, user % NUM_ITEMS, kind, user) for user in range(NUM_USERS) for kind in range(4)]
    events = EventSequences.build(small_log(rows, NUM_USERS, NUM_ITEMS))
    everyone = np.arange(NUM_USERS)
    for users in (everyone, everyone[::-1].copy()):  # in the table's order, and not
        graph = build_graph(events, users, events.lengths[users], NUM_ITEMS)
        encoder = make_encoder()
        found = encoder(graph, ITEMS)
        (found[0] ** 3).sum().backward()
        expected = slow_encoder(encoder, graph, ITEMS, signed=False)
        np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-4)
        learned = encoder.tables["user"].weight.grad.abs().sum(1).nonzero().flatten()
        assert learned.tolist() == [users[0]]


def test_users_without_any_event_get_finite_vectors_and_gradients():
    events = EventSequences.build(small_log([], NUM_USERS, NUM_ITEMS))
    for conv in ("sage", "gat"):
        encoder = GraphEncoder(schema(), NUM_USERS, SIZE, conv=conv, signed=True, backend="torch")
        vector = encoder(full_graph(events), ITEMS)
        assert torch.isfinite(vector).all()
        vector.sum().backward()
        for parameter in encoder.parameters():
            assert parameter.grad is None or torch.isfinite(parameter.grad).all()


def test_dropout_only_while_training():
    encoder = make_encoder(dropout=0.5)
    graph = full_graph()
    assert torch.equal(encoder(graph, ITEMS), encoder(graph, ITEMS))
    encoder.train()
    assert not torch.equal(encoder(graph, ITEMS), encoder(graph, ITEMS))
