from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.data.feedback import Feedback
from emorec.data.graph import build_graph, schema
from emorec.data.sequences import EventSequences
from emorec.nn.feedback_sum import FeedbackSum
from tests.small import random_events, small_log

NUM_USERS, NUM_ITEMS, SIZE = 7, 9, 4
EVENTS = random_events(NUM_USERS, NUM_ITEMS)


def graph_of(events, users, num_events=None, num_items=NUM_ITEMS, feedback_nodes=True):
    users = np.asarray(users)
    counts = events.lengths[users] if num_events is None else np.asarray(num_events)
    return build_graph(events, users, counts, num_items, feedback_nodes=feedback_nodes)


def make_encoder(backend="torch", feedback_nodes=True):
    torch.manual_seed(3)
    encoder = FeedbackSum(schema(feedback_nodes), NUM_ITEMS, SIZE, backend=backend)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    return encoder


def test_two_likes_and_a_dislike():
    liked, disliked = Feedback.EXPLICIT_POSITIVE, Feedback.EXPLICIT_NEGATIVE
    log = small_log([(0, 0, liked, 1), (0, 2, liked, 2), (0, 1, disliked, 3), (0, 2, 2, 4)], 1, 3)
    encoder = FeedbackSum(schema(), 3, 2, backend="torch")
    with torch.no_grad():
        encoder.source.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 8.0], [4.0, 2.0]]))
        encoder.kind_weight.copy_(torch.tensor([2.0, 9.0, 0.5, -1.0]))
        encoder.scale.fill_(3.0)
    # 3 / sqrt(4 events) * (2 * (5, 2) + 0.5 * (4, 2) - 1 * (0, 8))
    found = encoder(graph_of(EventSequences.build(log), [0], num_items=3))
    assert found.tolist() == [[18.0, -4.5]]


def test_starts_from_positive_weights():
    weight = FeedbackSum(schema(), NUM_ITEMS, SIZE, backend="torch").kind_weight
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0, 1.0, 0.3, 0.3]))


@pytest.mark.parametrize("feedback_nodes", [True, False])
def test_backends_agree_on_values_and_gradients(feedback_nodes):
    pytest.importorskip("dgl")
    graph = graph_of(EVENTS, np.arange(NUM_USERS), feedback_nodes=feedback_nodes)
    results = []
    for backend in ("torch", "dgl"):
        encoder = make_encoder(backend, feedback_nodes)
        scores = encoder.scores(encoder(graph))
        (scores * torch.arange(NUM_ITEMS)).square().sum().backward()
        results.append([scores.detach(), *(each.grad for each in encoder.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_other_users_have_no_effect():
    encoder = make_encoder()
    everybody = encoder(graph_of(EVENTS, np.arange(NUM_USERS)))
    alone = encoder(graph_of(EVENTS, [3]))
    torch.testing.assert_close(alone[0], everybody[3])


def test_a_user_without_events_is_zero():
    graph = graph_of(EVENTS, [2, 2], [0, 1])
    vectors = make_encoder()(graph).detach()
    assert not vectors[0].any()
    assert vectors[1].all()


class TestDecay:
    def encoder(self, decay_length):
        encoder = make_encoder().eval()
        encoder.decay_length.fill_(decay_length)
        return encoder

    def test_newer_events_count_more(self):
        kinds = [0, 3, 0]  # oldest first, on nodes of their own
        log = small_log([(0, item, kind, item) for item, kind in enumerate(kinds)], 1, NUM_ITEMS)
        encoder = self.encoder(2.0)
        share = torch.tensor([np.exp(-1.0), np.exp(-0.5), 1.0], dtype=torch.float32)
        own = encoder.kind_weight[kinds] * share
        total = (own[:, None] * encoder.source.weight[:3]).sum(0)
        expected = encoder.scale * total / share.sum().sqrt()
        found = encoder(graph_of(EventSequences.build(log), [0]))
        torch.testing.assert_close(found[0], expected)

    def test_there_is_none_in_training(self):
        graph = graph_of(EVENTS, np.arange(NUM_USERS))
        encoder = self.encoder(1.0)
        assert not torch.allclose(encoder(graph), self.encoder(np.inf)(graph))
        assert torch.equal(encoder.train()(graph), self.encoder(np.inf)(graph))

    def test_a_long_one_is_as_good_as_none(self):
        graph = graph_of(EVENTS, np.arange(NUM_USERS))
        torch.testing.assert_close(self.encoder(1e9)(graph), self.encoder(np.inf)(graph))

    def test_backends_agree(self):
        pytest.importorskip("dgl")
        graph = graph_of(EVENTS, np.arange(NUM_USERS))
        encoder, other = self.encoder(3.0), make_encoder("dgl").eval()
        other.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(encoder(graph), other(graph))


def test_scores_are_dot_products_and_biases():
    encoder = make_encoder()
    vectors = torch.randn(3, SIZE)
    expected = vectors @ encoder.target.weight.T + encoder.bias
    torch.testing.assert_close(encoder.scores(vectors), expected)
