from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from emorec import EmoRec
from emorec.data.synthetic import generate
from emorec.evaluation.top_k import TopK
from emorec.inference import diversity as module
from emorec.inference.diversity import diversified, vectors_of_items
from tests.small import small_config

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
USERS, ITEMS = LOG.users.ids, LOG.items.ids


@pytest.fixture(scope="module")
def flagship():
    config = small_config("training.epochs=1", preset="emorec")
    return EmoRec(config=config).fit(LOG, progress=False)


class TestDiversified:
    # Two directions; items 0, 1 and 2 lie along the first one, 3 and 4 along the second.
    VECTORS = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 5.0]])

    def pool(self, items, scores):
        return TopK(torch.tensor(items), torch.tensor(scores))

    @pytest.mark.parametrize(
        ("diversity", "expected"),
        [
            (0.0, [0, 1, 2]),
            # Second place: 1 has .8 * .75 - .2 * 1 = .4, and 3 has .8 * .25 = .2.
            (0.2, [0, 1, 2]),
            # Second: .7 * .75 - .3 = .225 and .175; third: 2 has .7 * .5 - .3 = .05, 3 has .175.
            (0.3, [0, 1, 3]),
            (0.5, [0, 3, 1]),
            (1.0, [0, 3, 1]),
        ],
    )
    def test_by_hand(self, diversity, expected):
        pool = self.pool([[0, 1, 2, 3, 4]], [[9.0, 8.0, 7.0, 6.0, 5.0]])
        found = diversified(pool, self.VECTORS, 3, diversity)
        assert found.items.tolist() == [expected]
        assert found.scores.tolist() == [[9.0 - item for item in expected]]

    def test_short_pools(self):
        inf = float("inf")
        pool = self.pool(
            [[4, 2, -1], [-1, -1, -1], [3, 4, 0]],
            [[2.0, 1.0, -inf], [-inf] * 3, [1.0, 1.0, 1.0]],
        )
        for diversity in (0.5, 1.0):
            found = diversified(pool, self.VECTORS, 3, diversity)
            assert found.items.tolist() == [[4, 2, -1], [-1, -1, -1], [3, 0, 4]]
            assert found.scores[0].tolist() == [2.0, 1.0, -inf]

    def test_one_list_at_a_time(self, monkeypatch):
        rng = np.random.default_rng(0)
        items = torch.from_numpy(np.argsort(rng.random((9, 30)), axis=1))
        scores = torch.from_numpy(rng.random((9, 30))).float().sort(descending=True).values
        vectors = torch.from_numpy(rng.normal(size=(30, 4))).float()
        together = diversified(TopK(items, scores), vectors, 8, 0.4)
        monkeypatch.setattr(module, "_CANDIDATES_AT_ONCE", 1)
        alone = diversified(TopK(items, scores), vectors, 8, 0.4)
        assert together.items.tolist() == alone.items.tolist()
        assert all(len(set(row)) == 8 for row in together.items.tolist())


class TestLists:
    def similarity(self, recommender, lists):
        vectors = torch.nn.functional.normalize(vectors_of_items(recommender.model), dim=1)
        items = torch.from_numpy(LOG.items.indices(lists["item"].tolist()).reshape(-1, 5))
        return float((vectors[items] @ vectors[items].mT).mean())

    @pytest.mark.parametrize("preset", ["emorec", "emorec-graph"])
    def test_are_more_diverse(self, preset):
        config = small_config("training.epochs=1", preset=preset)
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        users = [*USERS, "a stranger"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lists = [recommender.recommend(users, 5, diversity=d) for d in (0, 0.3, 1)]
            plain = recommender.recommend(users, 5)
        pd.testing.assert_frame_equal(lists[0], plain)
        first = [frame["item"][frame["rank"] == 1].tolist() for frame in lists]
        assert first[0] == first[1] == first[2]
        near, less, far = (self.similarity(recommender, frame) for frame in lists)
        assert near > less > far

    def test_scores_are_those_of_the_ranking(self, flagship):
        whole = flagship.recommend(USERS[:3], 50).set_index(["user", "item"])
        lists = flagship.recommend(USERS[:3], 5, diversity=0.7, exclude=ITEMS[:9])
        assert not lists["item"].isin(ITEMS[:9]).any()
        expected = whole.loc[list(zip(lists["user"], lists["item"], strict=True))]
        np.testing.assert_array_equal(lists["score"], expected["score"])
        np.testing.assert_array_equal(lists["liked"], expected["liked"])

    @pytest.mark.parametrize("wrong", [-0.1, 2, "high", None])
    def test_range(self, flagship, wrong):
        with pytest.raises(ValueError, match="diversity must be a number from 0 to 1, got"):
            flagship.recommend(USERS[:1], diversity=wrong)

    def test_a_model_without_vectors(self):
        config = small_config("training.epochs=1", "graph.conv=none", preset="emorec-graph")
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        with pytest.raises(ValueError, match="diversity needs vectors of items: this model has no"):
            recommender.recommend(USERS[:1], diversity=0.5)
