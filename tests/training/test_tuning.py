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
from emorec.inference.ranking import ModelScorer
from emorec.nn.feedback_paths import FeedbackPaths
from emorec.training import tuning, validation
from emorec.training.loop import train
from emorec.training.similarity import similar_items
from tests.small import small_config

LOG = generate(num_users=60, num_items=50, num_topics=8, events_per_user=12).interactions
SPLIT = split_interactions(LOG, n=3)


@pytest.fixture(autouse=True)
def _few_users_at_a_time(monkeypatch):
    monkeypatch.setattr(validation, "users_at_a_time", lambda num_items: 7)


def trained(split, *settings, preset="emorec"):
    config = small_config("graph.paths=4", *settings, preset=preset)
    model = build_model(config, split.train.num_users, split.train.num_items)
    train(model, config, split.train, split.valid_targets, progress=False)
    return model


WITHOUT_VALIDATION = replace(SPLIT, valid=SPLIT.valid.select(np.zeros(0, dtype=np.int64)))


class TestRanking:
    @pytest.mark.parametrize("select", ["ndcg", "ndcg_likes", "ndcg_mean"])
    @pytest.mark.parametrize(
        ("preset", "weights"), [("emorec", (0.0, 0.5, 1.0, 1.5, 2.0)), ("emorec-graph", (1.0,))]
    )
    def test_validation_chooses_weights_and_decay_length(
        self, monkeypatch, select, preset, weights
    ):
        monkeypatch.setattr(tuning, "_USERS", 25)
        model = trained(SPLIT, f"evaluation.select={select}", "training.epochs=1", preset=preset)
        summed, paths = model.feedback_sum, model.feedback_paths
        users = np.unique(SPLIT.valid_targets.user)[::3]  # 60 users: every third makes 20 of them
        asked = SPLIT.valid_targets.select(np.isin(SPLIT.valid_targets.user, users))
        chosen = tuple(
            each.item()
            for each in (summed.ranking_weight, paths.ranking_weight, paths.decay_length)
        )
        scores = {}
        for choice in itertools.product(weights, (0.0, 1.0, 2.0, 4.0, 8.0), (5.0, 20.0, math.inf)):
            summed.ranking_weight.fill_(choice[0])
            paths.ranking_weight.fill_(choice[1])
            paths.decay_length.fill_(choice[2])
            topk = recommend_top_k(ModelScorer(model, SPLIT.train), users, SPLIT.train, 10)
            scores[choice] = evaluate(topk, users, asked, 10).score(select)
        assert scores[chosen] == pytest.approx(max(scores.values()))
        assert min(scores.values()) < max(scores.values())

    def test_the_weight_of_the_sum_alone(self):
        model = trained(SPLIT, "graph.paths=0", "training.epochs=1")
        summed, scores = model.feedback_sum, {}
        chosen = summed.ranking_weight.item()
        users = np.unique(SPLIT.valid_targets.user)
        for weight in (0.0, 0.5, 1.0, 1.5, 2.0):
            summed.ranking_weight.fill_(weight)
            topk = recommend_top_k(ModelScorer(model, SPLIT.train), users, SPLIT.train, 10)
            found = evaluate(topk, users, SPLIT.valid_targets, 10)
            scores[weight] = found.score(small_config(preset="emorec").evaluation.select)
        assert model.feedback_paths is None
        assert scores[chosen] == pytest.approx(max(scores.values()))
        assert min(scores.values()) < max(scores.values())

    def test_similarities_are_those_of_the_log(self):
        model = trained(SPLIT, "training.epochs=1")
        counted = FeedbackPaths(LOG.num_items, 4)
        counted.fit(similar_items(SPLIT.train, 4))
        assert torch.equal(model.feedback_paths.item, counted.item)
        assert torch.equal(model.feedback_paths.similarity, counted.similarity)

    def test_defaults_stay_without_validation(self):
        model = trained(WITHOUT_VALIDATION, "training.epochs=1")
        paths = model.feedback_paths
        assert (paths.ranking_weight, paths.decay_length) == (2, 20)
        assert (model.feedback_sum.ranking_weight, model.feedback_sum.decay_length) == (1, math.inf)
        assert paths.similarity.sum() > 0


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
    def test_is_chosen_by_likes_for_the_sum_alone(self):
        settings = "graph.paths=0", "evaluation.select=ndcg"
        model = trained(SPLIT, *settings, preset="emorec-graph")
        decay_length = model.feedback_sum.decay_length
        users = np.unique(SPLIT.valid_targets.user)
        chosen, scores = decay_length.item(), {}
        for choice in (math.inf, 20.0, 10.0, 5.0):
            decay_length.fill_(choice)
            topk = recommend_top_k(ModelScorer(model, SPLIT.train), users, SPLIT.train, 10)
            scores[choice] = evaluate(topk, users, SPLIT.valid_targets, 10).score("ndcg_likes")
        assert scores[chosen] == max(scores.values()) > min(scores.values())
