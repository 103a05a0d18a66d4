"""Summaries of three models that several tests show."""

import math

KEYS = [
    "recall_any",
    "ndcg_any",
    "map_any",
    "recall_likes",
    "ndcg_likes",
    "recall_dislikes",
    "ndcl",
    "disliked_share",
    "delta_ndcg",
]


def summary(*values):
    return dict(zip(KEYS, values, strict=True))


ROWS = {
    "MostPop": summary(0.0410, 0.0444, 0.0172, 0.0505, 0.0361, 0.0271, 0.02, 0.217, 0.025),
    "ItemKNN": summary(0.0621, 0.0669, 0.0266, 0.0763, 0.0514, 0.0426, 0.03, 0.262, -0.031),
    "nothing hit": summary(0, 0, 0, 0, 0, 0.05, 0, math.nan, 0),
}
