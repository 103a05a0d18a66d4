from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from emorec import EmoRec
from emorec.data.synthetic import generate
from emorec.inference.similar import _nearest, similar_items, similar_users
from emorec.nn.feedback_paths import FeedbackPaths
from emorec.nn.model import Recommender
from tests.small import small_config

SYNTHETIC = generate(num_users=200, num_items=120, num_topics=8, events_per_user=30)
LOG, TRUTH = SYNTHETIC.interactions, SYNTHETIC.truth
USERS, ITEMS = LOG.users.ids, LOG.items.ids


def fit(preset, *settings):
    config = small_config("training.epochs=2", *settings, preset=preset)
    return EmoRec(config=config).fit(LOG, progress=False)


@pytest.fixture(scope="module")
def flagship():
    return fit("emorec", "graph.size=16")


@pytest.fixture(scope="module")
def graph():
    return fit("emorec-graph", "graph.paths=0", "graph.size=16")


def share_of_topics(lists):
    """The share of similar items in the topic of their item, without the item itself."""
    a, b = (TRUTH.topic[LOG.items.indices(lists[name].tolist())] for name in ("item", "similar"))
    assert not (lists["item"] == lists["similar"]).any()
    return (a == b).mean()


class TestItems:
    def test_by_hand(self):
        paths = FeedbackPaths(4, 2)
        rows = [[1, 0.5, 0, 0.25], [0.5, 1, 0, 0], [-0.5, 0, 1, 0], [0, 0, 0, 1]]
        paths.fit(sparse.csr_matrix(np.array(rows)))
        model = Recommender(4, 2, None, None, feedback_paths=paths)
        topk = similar_items(model, np.array([2, 0, 1]), 3)
        assert topk.items.tolist() == [[-1, -1, -1], [1, 3, -1], [0, -1, -1]]
        assert topk.scores[1, :2].tolist() == [0.5, 0.25]

    def test_cosines_by_hand(self):
        vectors = torch.tensor([[2.0, 0.0], [3.0, 3.0], [0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
        topk = _nearest(vectors, np.array([0, 2, 1]), 4)
        assert topk.items.tolist() == [[4, 1, -1, -1], [-1] * 4, [0, 4, -1, -1]]
        assert topk.scores[0, :2].tolist() == pytest.approx([1, 0.5**0.5])

    @pytest.mark.parametrize("name", ["flagship", "graph"])
    def test_share_topics_by_audience(self, name, request):
        lists = request.getfixturevalue(name).similar_items(ITEMS, 5)
        assert share_of_topics(lists) > 0.6  # chance: 0.12

    def test_share_topics_by_taste(self):
        recommender = fit("emorec", "training.epochs=6", "graph.conv=none")
        assert share_of_topics(recommender.similar_items(ITEMS, 5, by="taste")) > 0.2

    def test_rows(self, flagship):
        lists = flagship.similar_items([ITEMS[3], ITEMS[1], ITEMS[3]], k=2)
        assert lists.columns.tolist() == ["item", "rank", "similar", "similarity"]
        assert lists["item"].tolist() == [ITEMS[i] for i in (3, 3, 1, 1, 3, 3)]
        assert lists["rank"].tolist() == [1, 2] * 3
        assert lists["similar"][:2].tolist() == lists["similar"][4:].tolist()
        assert (lists["similarity"] > 0).all()
        assert lists["similarity"][0] >= lists["similarity"][1]
        pd.testing.assert_frame_equal(
            flagship.similar_items([ITEMS[1]], k=2), lists[2:4].reset_index(drop=True)
        )


class TestUsers:
    def agreement(self, lists):
        """Mean cosine of the true tastes of similar users; 0 by chance."""
        a, b = (
            TRUTH.taste_end[LOG.users.indices(lists[name].tolist())] for name in ("user", "similar")
        )
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return ((a * b).sum(1) / norms).mean()

    def test_agree_by_audience(self, flagship):
        lists = flagship.similar_users(USERS, 5)
        assert lists.columns.tolist() == ["user", "rank", "similar", "similarity"]
        assert lists["similarity"].between(0, 1 + 1e-6, inclusive="right").all()
        assert not (lists["user"] == lists["similar"]).any()
        assert self.agreement(lists) > 0.05

    def test_agree_by_taste(self):
        recommender = fit("emorec", "training.epochs=6", "graph.conv=none")
        assert self.agreement(recommender.similar_users(USERS, 5, by="taste")) > 0.05

    def test_twins_are_nearest(self, flagship):
        twin = LOG.select(LOG.user == 3)
        events = pd.DataFrame(
            {
                "user_id": "a twin",
                "item_id": LOG.items.lookup(twin.item),
                "rating": 5 - twin.feedback,
                "timestamp": twin.time,
            }
        )
        from emorec.data.readers import read_interactions

        log = flagship.split.log.followed_by(read_interactions(events, rules="ratings")[0])
        for by in ("audience", "taste"):
            topk = similar_users(flagship.model, log, np.array([3]), 1, by)
            assert log.users.lookup(topk.items[0].numpy()) == ["a twin"]
            assert topk.scores[0, 0] == pytest.approx(1, abs=1e-5)

    def test_users_without_events_are_similar_to_none(self, flagship):
        log = LOG.select(LOG.user > 2)
        topk = similar_users(flagship.model, log, np.array([0, 5]), 300, "audience")
        assert (topk.items[0] == -1).all()
        assert not set(topk.items[1].tolist()) & {0, 1, 2, 5}


class TestErrors:
    def test_unknown_ids(self, flagship):
        with pytest.warns(UserWarning, match="unknown to the model: 1 of 2 items, such as 'x'"):
            lists = flagship.similar_items(["x", ITEMS[0]], 2)
        assert set(lists["item"]) == {ITEMS[0]}
        with pytest.raises(ValueError, match="no user of the 1 given is known, such as 'x'"):
            flagship.similar_users(["x"])

    @pytest.mark.parametrize("ids", ["x", 7])
    def test_one_id_in_place_of_a_list(self, flagship, ids):
        with pytest.raises(ValueError, match="items must be a list of ids"):
            flagship.similar_items(ids)

    def test_options(self, flagship):
        with pytest.raises(ValueError, match="by must be one of 'audience', 'taste', got 'x'"):
            flagship.similar_items(ITEMS[:1], by="x")
        with pytest.raises(ValueError, match="k must be a whole number of at least 1, got 0"):
            flagship.similar_users(USERS[:1], k=0)

    def test_what_a_model_lacks(self, graph):
        for find, ids in ((graph.similar_items, ITEMS), (graph.similar_users, USERS)):
            with pytest.raises(ValueError, match="by='taste' needs .*model.polarity is not 'item'"):
                find(ids, by="taste")
        sage = fit("diff-gat")
        with pytest.raises(ValueError, match="graph.paths=0, and graph.conv is not 'sum'; train"):
            sage.similar_items(ITEMS)
        with pytest.raises(ValueError, match="graph.conv is not 'sum'; train one with --set"):
            sage.similar_users(USERS)
