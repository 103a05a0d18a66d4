from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import sparse

from emorec.data.sequences import EventSequences
from emorec.inference.neighbours import Neighbours
from tests.small import random_events, small_log

#            0    1    2    3
SIMILAR = [[1.0, 0.5, 0.0, 0.0],
           [0.5, 1.0, 0.2, 0.0],
           [0.0, 0.2, 1.0, 0.0],
           [0.0, 0.0, 0.0, 0.0]]  # fmt: skip


def remembering(similarity, num_neighbours):
    neighbours = Neighbours(len(similarity), num_neighbours)
    neighbours.fit(sparse.csr_matrix(np.array(similarity)))
    return neighbours


def batch_of(rows, num_users=1):
    log = small_log(rows, num_users, len(SIMILAR))
    return EventSequences.build(log).inference_batch(np.arange(num_users), 10)


def test_votes_by_hand():
    batch = batch_of([(0, 1, 0, 10), (0, 2, 2, 20), (1, 3, 0, 5)], num_users=3)
    older = math.exp(-1 / 20)  # item 1 is one event older than item 2
    skipped = 0.3  # what a skip counts
    votes = [0.5 * older, older + 0.2 * skipped, 0.2 * older + skipped, 0]
    expected = [[vote / max(votes) for vote in votes], [0] * 4, [0] * 4]
    np.testing.assert_allclose(remembering(SIMILAR, 3)(batch), expected, rtol=1e-6)


def test_explicit_dislikes_have_no_vote_but_make_the_others_older():
    alone = remembering(SIMILAR, 3)(batch_of([(0, 1, 0, 10)]))
    both = batch_of([(0, 1, 0, 10), (0, 2, 3, 20)])
    torch.testing.assert_close(remembering(SIMILAR, 3)(both), alone)
    three = batch_of([(0, 1, 0, 10), (0, 3, 3, 20), (0, 2, 1, 30)])
    played = 0.7  # what having been played counts
    votes = [0.5 * math.exp(-0.1), math.exp(-0.1) + 0.2 * played, 0.2 * math.exp(-0.1) + played, 0]
    np.testing.assert_allclose(
        remembering(SIMILAR, 3)(three)[0], np.array(votes) / max(votes), rtol=1e-6
    )


def test_no_voice_fades_where_the_decay_length_is_endless():
    neighbours = remembering(SIMILAR, 3)
    neighbours.decay_length.fill_(math.inf)
    votes = neighbours(batch_of([(0, 1, 0, 10), (0, 0, 0, 20), (0, 0, 0, 30)]))
    np.testing.assert_allclose(votes, [[1, 0.8, 0.08, 0]], rtol=1e-6)  # of 2.5, 2, 0.2


def test_equals_products_of_sparse_matrices():
    rng = np.random.default_rng(0)
    events = random_events(num_users=20, num_items=30, most_events=12)
    similarity = sparse.random(30, 30, 0.2, format="csr", random_state=1)
    most = int(np.diff(similarity.indptr).max())
    query = np.zeros((20, 30))
    for user in range(20):
        rows = slice(events.offsets[user], events.offsets[user + 1])
        items, kinds = events.item[rows], events.feedback[rows]
        for age, (item, kind) in enumerate(zip(items[::-1], kinds[::-1], strict=True)):
            query[user, item] += math.exp(-age / 20) * (1, 0.7, 0.3, 0)[kind]
    expected = query @ similarity.toarray()
    expected /= np.maximum(expected.max(1, keepdims=True), 1e-30)
    neighbours = Neighbours(30, most)
    neighbours.fit(similarity)
    users = rng.permutation(20)
    found = neighbours(events.inference_batch(users, 13))
    np.testing.assert_allclose(found, expected[users], rtol=1e-5, atol=1e-7)


def test_remembering_again_forgets_what_was_there():
    neighbours = remembering(SIMILAR, 3)
    neighbours.fit(sparse.csr_matrix(np.eye(4)))
    assert torch.equal(neighbours(batch_of([(0, 1, 0, 10)])), torch.eye(4)[1:2])


@pytest.mark.parametrize("num_neighbours", [2, 100])
def test_is_part_of_a_checkpoint(num_neighbours):
    similarity = [row if num_neighbours > 2 else [0, 0, 0, row[0]] for row in SIMILAR]
    neighbours = remembering(similarity, num_neighbours)
    neighbours.weight.fill_(3.0)
    neighbours.decay_length.fill_(math.inf)
    other = Neighbours(4, num_neighbours)
    other.load_state_dict(neighbours.state_dict())
    batch = batch_of([(0, 1, 0, 10), (0, 0, 1, 20)])
    assert torch.equal(other(batch), neighbours(batch))
    assert (other.weight, other.decay_length) == (3, math.inf)
    assert not list(neighbours.parameters())
