"""How good lists are: within bounds, so that a change that makes them worse is noticed.

The preset `emorec-graph` with its defaults, which learns in seconds; bounds are about two thirds of
the way from the best simple model to what two seeds measured.
"""

from __future__ import annotations

import pytest

from emorec import EmoRec
from emorec.baselines import EASE
from emorec.comparison import evaluate_scorer
from emorec.config import load_config
from emorec.data.datasets import load_dataset
from emorec.data.splits import split_interactions


def quality(log):
    """The graph's and EASE's figures on the test split, each user's last ten events."""
    split = split_interactions(log)
    config = load_config("emorec-graph", settings=("training.threads=1",))
    recommender = EmoRec(config=config).fit(split, progress=False)
    ease = EASE(200.0, recency=20.0).fit(split.history)
    return tuple(
        evaluate_scorer(scorer, split, 10).summary() for scorer in (recommender.scorer(), ease)
    )


def test_of_the_embedded_log():
    """Measured .164 and .165 NDCG of likes, .210 and .209 disliked share; EASE .122 and .235."""
    graph, ease = quality(load_dataset("synthetic"))
    assert graph["ndcg_likes"] > 0.150 > ease["ndcg_likes"]
    assert graph["disliked_share"] < 0.220 < ease["disliked_share"]


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:.*md5")
def test_of_movielens_100k(real_data_dir):
    """Measured .127 and .130 NDCG of likes, .314 and .304 disliked share; EASE .108 and .383."""
    graph, ease = quality(load_dataset("ml-100k", real_data_dir))
    assert graph["ndcg_likes"] > 0.121 > ease["ndcg_likes"]
    assert graph["disliked_share"] < 0.335 < ease["disliked_share"]
