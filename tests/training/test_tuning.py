from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from emorec.building import build_model
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.evaluation.top_k import evaluate, recommend_top_k
from emorec.inference.neighbours import Neighbours, similar_items
from emorec.inference.ranking import ModelScorer
from emorec.training import tuning, validation
from emorec.training.loop import train
from emorec.training.start import start_from_log
from tests.small import small_config

LOG = generate(num_users=60, num_items=50, num_topics=8, events_per_user=12).interactions
SPLIT = split_interactions(LOG, n=3)


@pytest.fixture(autouse=True)
def _few_users_at_a_time(monkeypatch):
    monkeypatch.setattr(validation, "users_at_a_time", lambda num_items: 7)


def trained(split, *settings):
    config = small_config("model.neighbours=4", *settings)
    model = build_model(config, split.train.num_users, split.train.num_items)
    train(model, config, split.train, split.valid_targets, progress=False)
    return model


@pytest.mark.parametrize(
    ("select", "measure"), [("ndcg", "ndcg_any"), ("ndcg_likes", "ndcg_likes")]
)
def test_validation_chooses_weight_and_decay_length(monkeypatch, select, measure):
    monkeypatch.setattr(tuning, "_USERS", 25)
    model = trained(SPLIT, f"evaluation.select={select}")
    counted = Neighbours(LOG.num_items, 5)
    counted.fit(similar_items(SPLIT.train, 4))
    assert torch.equal(model.neighbours.item, counted.item)
    assert torch.equal(model.neighbours.similarity, counted.similarity)
    users = np.unique(SPLIT.valid_targets.user)[::3]  # 60 users: every third makes 20 of them
    asked = SPLIT.valid_targets.select(np.isin(SPLIT.valid_targets.user, users))
    scores = {}
    chosen = model.neighbours.weight.item(), model.neighbours.decay_length.item()
    for choice in itertools.product((0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0), (20.0, math.inf)):
        model.neighbours.weight.fill_(choice[0])
        model.neighbours.decay_length.fill_(choice[1])
        topk = recommend_top_k(ModelScorer(model, SPLIT.train), users, SPLIT.train, 10)
        scores[choice] = evaluate(topk, users, asked, 10).summary()[measure]
    assert scores[chosen] == max(scores.values()) > min(scores.values())


def test_defaults_stay_without_validation():
    split = replace(SPLIT, valid=SPLIT.valid.select(np.zeros(0, dtype=np.int64)))
    model = trained(split, "training.epochs=1")
    assert (model.neighbours.weight, model.neighbours.decay_length) == (1, 20)
    assert model.neighbours.similarity.sum() > 0


def test_lists_hold_items_of_the_train_split_alone(monkeypatch):
    ranked = []

    def noted(scorer, users, seen, k, candidates, size):
        ranked.append(candidates)
        return recommend_top_k(scorer, users, seen, k, candidates, size)

    monkeypatch.setattr(validation, "recommend_top_k", noted)
    known = SPLIT.train.item < 45
    split = replace(SPLIT, train=SPLIT.train.select(known))
    trained(split, "training.epochs=1")
    expected = np.isin(np.arange(LOG.num_items), split.train.item)
    assert ranked and not expected[45:].any()
    assert all(np.array_equal(each, expected) for each in ranked)


class TestDecay:
    def trained(self, split, *settings):
        config = small_config(*settings, preset="emorec-graph")
        model = build_model(config, split.train.num_users, split.train.num_items)
        start_from_log(model, split.train)
        train(model, config, split.train, split.valid_targets, progress=False)
        return model

    @pytest.mark.parametrize(
        ("select", "measure"), [("ndcg", "ndcg_any"), ("ndcg_likes", "ndcg_likes")]
    )
    def test_validation_chooses(self, select, measure):
        model = self.trained(SPLIT, f"evaluation.select={select}")
        decay_length = model.graph_encoder.decay_length
        users = np.unique(SPLIT.valid_targets.user)
        chosen, scores = decay_length.item(), {}
        for choice in (math.inf, 20.0, 10.0, 5.0):
            decay_length.fill_(choice)
            topk = recommend_top_k(ModelScorer(model, SPLIT.train), users, SPLIT.train, 10)
            scores[choice] = evaluate(topk, users, SPLIT.valid_targets, 10).summary()[measure]
        assert scores[chosen] == max(scores.values()) > min(scores.values())

    def test_is_none_without_validation(self):
        split = replace(SPLIT, valid=SPLIT.valid.select(np.zeros(0, dtype=np.int64)))
        assert self.trained(split).graph_encoder.decay_length == math.inf
