from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import sparse

from emorec.data.graph import build_graph
from emorec.data.sequences import EventSequences
from emorec.nn.feedback_paths import NUM_NEAR, FeedbackPaths
from tests.small import random_events, small_log

#            0    1    2    3
SIMILAR = [[1.0, 0.5, 0.0, 0.0],
           [0.5, 1.0, 0.2, 0.0],
           [0.0, 0.2, 1.0, 0.0],
           [0.0, 0.0, 0.0, 0.0]]  # fmt: skip

NUM_ITEMS = len(SIMILAR)


def fitted(similarity, num_similar=2):
    paths = FeedbackPaths(len(similarity), num_similar)
    paths.fit(sparse.csr_matrix(np.array(similarity)))
    return paths


def graph_of(events, num_items=NUM_ITEMS, users=None, feedback_nodes=True):
    users = np.arange(events.num_users) if users is None else users
    counts = events.lengths[users]
    return build_graph(events, users, counts, num_items, feedback_nodes=feedback_nodes)


def graph_of_rows(rows, num_users=1, num_items=NUM_ITEMS, feedback_nodes=True):
    events = EventSequences.build(small_log(rows, num_users, num_items))
    return graph_of(events, num_items, feedback_nodes=feedback_nodes)


class TestPaths:
    def test_by_hand(self):
        graph = graph_of_rows([(0, 1, 0, 10), (0, 2, 2, 20), (1, 3, 0, 5)], num_users=3)
        older = math.exp(-1 / 20)  # item 1 is one event older than item 2
        skipped = 0.3
        total = [0.5 * older, older + 0.2 * skipped, 0.2 * older + skipped, 0]
        expected = [[each / max(total) for each in total], [0] * 4, [0] * 4]
        np.testing.assert_allclose(fitted(SIMILAR)(graph), expected, rtol=1e-6)

    def test_explicit_dislikes_add_nothing_but_make_the_others_older(self):
        alone = fitted(SIMILAR)(graph_of_rows([(0, 1, 0, 10)]))
        both = graph_of_rows([(0, 1, 0, 10), (0, 2, 3, 20)])
        torch.testing.assert_close(fitted(SIMILAR)(both), alone)
        three = graph_of_rows([(0, 1, 0, 10), (0, 3, 3, 20), (0, 2, 1, 30)])
        older, played = math.exp(-0.1), 0.7
        total = np.array([0.5 * older, older + 0.2 * played, 0.2 * older + played, 0])
        np.testing.assert_allclose(fitted(SIMILAR)(three)[0], total / total.max(), rtol=1e-6)

    def test_nothing_fades_where_the_decay_length_is_infinite(self):
        paths = fitted(SIMILAR)
        paths.decay_length.fill_(math.inf)
        found = paths(graph_of_rows([(0, 1, 0, 10), (0, 0, 0, 20), (0, 0, 0, 30)]))
        np.testing.assert_allclose(found, [[1, 0.8, 0.08, 0]], rtol=1e-6)  # of 2.5, 2, 0.2

    def test_without_feedback_nodes_all_kinds_count_alike(self):
        rows = [(0, 1, 3, 10), (0, 0, 2, 20)]
        paths = fitted(SIMILAR)
        paths.decay_length.fill_(math.inf)
        found = paths(graph_of_rows(rows, feedback_nodes=False))
        np.testing.assert_allclose(found, [[1, 1, 0.2 / 1.5, 0]], rtol=1e-6)  # of 1.5, 1.5, 0.2

    def test_equals_products_of_sparse_matrices(self):
        events = random_events(num_users=20, num_items=30, most_events=12)
        similarity = sparse.random(30, 30, 0.2, format="csr", random_state=1)
        query = np.zeros((20, 30))
        for user in range(20):
            rows = slice(events.offsets[user], events.offsets[user + 1])
            items, kinds = events.item[rows], events.feedback[rows]
            for age, (item, kind) in enumerate(zip(items[::-1], kinds[::-1], strict=True)):
                query[user, item] += math.exp(-age / 20) * (1, 0.7, 0.3, 0)[kind]
        expected = query @ similarity.toarray()
        expected /= np.maximum(expected.max(1, keepdims=True), 1e-30)
        paths = FeedbackPaths(30, int(np.diff(similarity.indptr).max()))
        paths.fit(similarity)
        users = np.random.default_rng(0).permutation(20)
        found = paths(graph_of(events, 30, users))
        np.testing.assert_allclose(found, expected[users], rtol=1e-5, atol=1e-7)

    def test_another_fit_replaces_the_first(self):
        paths = fitted(SIMILAR)
        paths.fit(sparse.csr_matrix(np.eye(4)))
        assert torch.equal(paths(graph_of_rows([(0, 1, 0, 10)])), torch.eye(4)[1:2])

    @pytest.mark.parametrize("num_similar", [1, 100])
    def test_are_part_of_a_saved_model(self, num_similar):
        similarity = [row if num_similar > 1 else [0, 0, 0, row[0]] for row in SIMILAR]
        paths = fitted(similarity, num_similar)
        paths.ranking_weight.fill_(3.0)
        paths.decay_length.fill_(math.inf)
        other = FeedbackPaths(4, num_similar)
        other.load_state_dict(paths.state_dict())
        graph = graph_of_rows([(0, 1, 0, 10), (0, 0, 1, 20)])
        assert torch.equal(other(graph), paths(graph))
        assert (other.ranking_weight, other.decay_length) == (3, math.inf)
        assert not list(paths.parameters())


class TestSparseScores:
    @pytest.mark.parametrize("feedback_nodes", [True, False])
    def test_have_the_values_of_all(self, feedback_nodes):
        events = random_events(num_users=20, num_items=30, most_events=12)
        similarity = sparse.random(30, 30, 0.2, format="csr", random_state=1)
        paths = FeedbackPaths(30, int(np.diff(similarity.indptr).max()))
        paths.fit(similarity)
        graph = graph_of(events, 30, np.arange(20), feedback_nodes)
        for whole, some in (
            (paths(graph), paths.sparse(graph)),
            (paths.dislikes(graph), paths.sparse_dislikes(graph)),
        ):
            blocks = [some.of(slice(start, min(start + 7, 30))) for start in range(0, 30, 7)]
            torch.testing.assert_close(torch.cat(blocks, dim=1), whole, rtol=1e-6, atol=0)
            assert (some.score != 0).sum() == (whole != 0).sum()


class TestNearest:
    def test_most_similar_first_and_itself_in_the_place_of_missing_ones(self):
        found = fitted(SIMILAR, 3).nearest(torch.tensor([1, 0, 3]))
        assert found.tolist() == [[1, 0, 2, 1, 1], [0, 1, 0, 0, 0], [3] * 5]

    def test_dissimilar_items_are_not_near(self):
        found = fitted([[1.0, -0.5, 0.1], [-0.5, 1, 0], [0.1, 0, 1]]).nearest(torch.tensor([0]))
        assert set(found[0].tolist()) == {0, 2}

    def test_are_at_most_as_many_as_stated(self):
        similarity = 1 / (1 + np.abs(np.subtract.outer(np.arange(60), np.arange(60))))
        found = fitted(similarity, 59).nearest(torch.tensor([30, 0]))
        assert found.shape == (2, NUM_NEAR)
        assert set(range(21, 40)) < set(found[0].tolist())
        assert found[1].tolist() == list(range(NUM_NEAR))


class TestDislikes:
    def test_fade_with_newer_events_of_any_kind(self):
        rows = [(0, 2, 3, 1), (0, 3, 0, 2), (0, 3, 2, 3)]
        found = fitted(SIMILAR).dislikes(graph_of_rows(rows))
        faded = math.exp(-2 / 25)
        np.testing.assert_allclose(found, [[0, faded, faded, 0]], rtol=1e-6)

    def test_the_newest_decides_and_they_do_not_add_up(self):
        rows = [(0, 0, 3, 1), (0, 2, 3, 2), (1, 3, 0, 1)]
        found = fitted(SIMILAR).dislikes(graph_of_rows(rows, num_users=3))
        np.testing.assert_allclose(found[0], [math.exp(-1 / 25), 1, 1, 0], rtol=1e-6)
        assert not found[1:].any()

    @pytest.mark.parametrize("kind", [0, 1, 2])
    def test_other_kinds_of_feedback_are_none(self, kind):
        assert not fitted(SIMILAR).dislikes(graph_of_rows([(0, 1, kind, 1)])).any()

    def test_there_are_none_without_feedback_nodes(self):
        graph = graph_of_rows([(0, 1, 3, 1)], feedback_nodes=False)
        assert not fitted(SIMILAR).dislikes(graph).any()

    def test_very_old_ones_are_forgotten(self):
        rows = [(0, 1, 3, 0), *((0, 3, 0, step) for step in range(1, 126))]
        assert not fitted(SIMILAR).dislikes(graph_of_rows(rows)).any()
        assert fitted(SIMILAR).dislikes(graph_of_rows(rows[:-1])).any()
