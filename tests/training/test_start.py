from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from emorec.building import build_model
from emorec.data.sequences import EventSequences
from emorec.data.synthetic import generate
from emorec.training.start import start_from_log
from tests.small import small_config, small_log

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions


def started(log, size=8):
    config = small_config(f"graph.size={size}", preset="emorec-graph")
    model = build_model(config, log.num_users, log.num_items)
    start_from_log(model, log)
    return model


def normalised(log):
    seen = np.zeros((log.num_users, log.num_items))
    seen[log.user, log.item] = 1
    by_user, by_item = (np.maximum(seen.sum(axis), 1) for axis in (1, 0))
    return seen / np.sqrt(by_user[:, None] * by_item)


def test_two_groups_of_items():
    # Sixteen users have the items 0 and 1, one has item 2: all singular values that are not 0 are
    # 1, and there are two, of which two are asked for. The fourth roots of the items' degrees are
    # 2, 2 and 1; divided by their mean, 1.2, 1.2 and 0.6.
    rows = [(user, item, 3 * item, user) for user in range(16) for item in (0, 1)]
    model = started(small_log([*rows, (16, 2, 0, 0)], 17, 3), size=2)
    embedding = model.feedback_sum.target.weight.detach()
    gram = torch.tensor([[0.72, 0.72, 0.0], [0.72, 0.72, 0.0], [0.0, 0.0, 0.36]])
    torch.testing.assert_close(embedding @ embedding.T, gram, atol=1e-5, rtol=1e-5)
    tilt = torch.tensor([[1.2], [1.2], [0.6]])
    torch.testing.assert_close(model.feedback_sum.source.weight.detach(), embedding / tilt**2)
    likes = torch.tensor([16.0, 0.0, 1.0])
    torch.testing.assert_close(model.feedback_sum.bias.detach(), 0.3 * torch.log1p(likes))


def test_vectors_are_the_largest_singular_ones():
    model = started(LOG)
    source, embedding = model.feedback_sum.source.weight, model.feedback_sum.target.weight
    _, values, right = np.linalg.svd(normalised(LOG))
    expected = right[:8].T * values[:8] @ right[:8]
    tilt = np.maximum(np.bincount(LOG.item, minlength=LOG.num_items), 1) ** 0.25
    found = (source @ embedding.T).detach().numpy() * tilt[:, None] / tilt
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_log_of_lower_rank_leaves_columns_at_zero():
    rows = [(user, item, 0, item) for user in range(3) for item in range(user, 4)]
    embedding = started(small_log(rows, 3, 4), size=5).feedback_sum.target.weight.detach()
    assert embedding[:, :2].any(0).all()
    assert not embedding[:, 2:].any()


def test_scores_hardly_spread():
    model = started(LOG)
    events = EventSequences.build(LOG)
    graph = model.graph_source(events, LOG.num_items).graph(np.arange(40), events.lengths)
    vectors = model.feedback_sum.target.weight
    spread = (model.feedback_sum(graph) @ vectors.T).std()
    assert math.isclose(spread.item(), 0.5, rel_tol=1e-4)


def test_is_the_same_each_time():
    one, other = started(LOG).state_dict(), started(LOG).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_repeats_of_an_event_count_once():
    twice = LOG.joined_with(LOG.select(np.arange(9)))
    torch.testing.assert_close(
        started(twice).feedback_sum.source.weight, started(LOG).feedback_sum.source.weight
    )


def test_a_log_of_one_item_starts_from_zero():
    model = started(small_log([(0, 0, 0, 1), (1, 0, 0, 2)], 2, 1))
    assert not model.feedback_sum.target.weight.any()
    assert model.feedback_sum.bias.detach().isfinite().all()


class TestEmbeddings:
    def started(self, *settings, preset="emorec"):
        config = small_config("model.embedding_size=4", *settings, preset=preset)
        model = build_model(config, LOG.num_users, LOG.num_items)
        start_from_log(model, LOG, embeddings=True)
        return model

    def test_have_the_direction_of_singular_vectors_and_one_length(self):
        found = self.started().item_vectors.detach().numpy()
        _, values, right = np.linalg.svd(normalised(LOG))
        vectors = right[:4].T * np.sqrt(values[:4])
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-6)
        np.testing.assert_allclose(found @ found.T, 0.04 * vectors @ vectors.T, atol=1e-4)

    def test_do_not_depend_on_the_feedback_sum(self):
        alone = self.started("graph.conv=none", "graph.paths=0").item_vectors
        torch.testing.assert_close(
            alone.abs(), self.started().item_vectors.abs(), rtol=1e-3, atol=1e-4
        )

    def test_of_a_model_that_has_none(self):
        with pytest.raises(ValueError, match="no item embeddings"):
            self.started(preset="emorec-graph")


def test_other_models_stay_as_they_are():
    config = small_config(preset="emo-gat")
    model = build_model(config, LOG.num_users, LOG.num_items)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_from_log(model, replace(LOG))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
