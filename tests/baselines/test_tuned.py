from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emorec.baselines import EASE, ItemKNN
from emorec.baselines.tuned import BASELINES, names_for, tuned_baselines
from emorec.data.splits import Split, split_interactions
from emorec.data.synthetic import generate
from emorec.evaluation.top_k import evaluate, recommend_top_k

LOG = generate(num_users=60, num_items=80, num_topics=8, events_per_user=20).interactions
SPLIT = split_interactions(LOG, n=3)
ALL = torch.arange(LOG.num_users)


def quality(scorer, split=SPLIT, measure="ndcg_any"):
    users = np.unique(split.valid_targets.user)
    topk = recommend_top_k(scorer, users, split.train, 5)
    return evaluate(topk, users, split.valid_targets, 5).summary()[measure]


@pytest.mark.parametrize("measure", ["ndcg_any", "ndcg_likes"])
def test_validation_chooses_the_settings(measure):
    found = dict(tuned_baselines(SPLIT, 5, ["ItemKNN, recency"], measure))["ItemKNN, recency"]
    choices = [
        {"neighbours": neighbours, "shrink": shrink, "recency": recency}
        for neighbours in (100, 400)
        for shrink in (50.0, 0.0)
        for recency in (20.0, 5.0)
    ]
    scores = [quality(ItemKNN(**choice).fit(SPLIT.train), measure=measure) for choice in choices]
    assert found.settings == choices[int(np.argmax(scores))]
    assert found.choices == 8
    assert max(scores) > min(scores)  # there was something to choose


def test_what_was_chosen_knows_train_and_validation():
    for name, baseline in tuned_baselines(SPLIT, 5, ["EASE, likes"]):
        assert name == "EASE, likes"
        model = EASE(**baseline.settings, train_on_likes=True, query_likes=True)
        expected = model.fit(SPLIT.history)(ALL)
        torch.testing.assert_close(baseline.scorer(ALL), expected)


def test_nothing_is_chosen_without_validation():
    nobody = SPLIT.train.select(np.zeros(0, dtype=np.int64))
    split = Split(SPLIT.train, nobody, SPLIT.test)
    for _, baseline in tuned_baselines(split, 5):
        assert baseline.choices == 1
        shown = str(baseline)
        assert shown == "no settings" or shown.endswith("(not tuned: there is no validation split)")


def test_settings_are_said_in_words():
    shown = {name: str(baseline) for name, baseline in tuned_baselines(SPLIT, 5)}
    assert list(shown) == list(BASELINES)
    assert shown["MostPop"] == "no settings"
    assert shown["EASE"].startswith("regularization ")
    assert shown["EASE"].endswith(" (chosen from 3 on validation)")


def test_large_catalogues_have_the_sparse_twin():
    assert names_for(8_000) == tuple(
        name for name in BASELINES if name not in ("Random", "RidgeKNN, recency")
    )
    assert [name for name in names_for(8_001) if "EASE" in name] == []
    assert "RidgeKNN, recency" in names_for(8_001)


def test_seen_items_count_where_lists_may_hold_them():
    # Everybody comes back to the same items: only lists of seen items can hit.
    span = LOG.time.max() - LOG.time.min() + 1
    log = LOG.joined_with(
        replace(LOG, time=LOG.time + span), replace(LOG, time=LOG.time + 2 * span)
    )
    split = split_interactions(log, n=3)
    for seen, hits in (("exclude", False), ("include", True)):
        for _, baseline in tuned_baselines(split, 5, ["EASE", "ItemKNN"], seen=seen):
            users = np.unique(split.test.user)
            none = split.history.select(np.zeros(0, dtype=np.int64))
            excluded = split.history if seen == "exclude" else none
            topk = recommend_top_k(baseline.scorer, users, excluded, 5)
            assert (evaluate(topk, users, split.test, 5).summary()["hits_any"] > 0) is hits
