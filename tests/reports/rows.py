"""Models' figures that several tests show."""

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
    "nothing hit": summary(0, 0, 0, 0, 0, 0, 0, math.nan, 0),
}

# As crowded as a table of many models is: (NDCG of likes, disliked share).
CROWD = {
    "Random": (0.001, 0.28),
    "MostPop": (0.036, 0.217),
    "matrix factorisation": (0.041, 0.355),
    "ItemKNN": (0.0514, 0.262),
    "iALS": (0.056, 0.3),
    "EASE": (0.0609, 0.285),
    "EASE, likes": (0.0672, 0.188),
    "EASE, recency 20": (0.09, 0.373),
    "EASE, recency 5": (0.0964, 0.394),
    "SASRec": (0.1166, 0.424),
    "BERT4Rec": (0.11, 0.418),
    "gSASRec": (0.114, 0.419),
    "LightGCN": (0.0559, 0.291),
    "signed graph": (0.06, 0.25),
    "signed transformer": (0.0615, 0.247),
    "negative-aware": (0.052, 0.27),
    "contrastive": (0.112, 0.4),
    "ItemKNN, recency": (0.0934, 0.38),
    "ItemKNN, likes": (0.061, 0.2),
    "emorec": (0.14, 0.3),
}
