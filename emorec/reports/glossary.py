"""The terms of the report, each explained once."""

from __future__ import annotations

import html
from collections.abc import Collection

__all__ = ["glossary_html"]

_TERMS = {
    "lists": {
        "any, likes, dislikes": "which held-out items count: all; those with positive feedback; "
        "those with negative feedback",
        "Recall": "share of a user's items that count which are in the list. Of dislikes, lower is "
        "better",
        "NDCG, MAP": "the same, weighted by how high in the list they are",
        "nDCL": "how high dislikes are in the list, from 0 to 1, the worst possible order",
        "share": "disliked share: dislikes among all held-out items that were listed",
        "dNDCG": "NDCG of likes minus NDCG of dislikes, over users who have both",
        "↓": "lower is better",
    },
    "marks": {
        "coloured": "best of its column",
        "+": "no model with at least half of the best NDCG of likes has as many likes and fewer "
        "dislikes. Lists without relevant items have few dislikes, too, so these columns have no "
        "best value",
    },
    "intervals": {
        "±": "half the width of the 95 % confidence interval over users, by bootstrap",
    },
    "predictions": {
        "P(liked)": "the probability that a user's feedback on an item is positive",
        "PolAUC": "how often a like is ranked above a dislike of the same user; 0.5 is chance",
        "ROC-AUC": "the same for likes and dislikes of any users",
        "Brier": "mean squared error of the probabilities",
        "ECE": "expected calibration error: how far probabilities are from the observed shares",
        "ItemPrior": "predicts the share of positive feedback on an item, whoever the user",
    },
    "popularity": {
        "coverage": "share of the catalogue that is in any list",
        "popular items": "the tenth of the catalogue with the most events before the test split; "
        "the column is the share of the lists' places that they take",
        "popularity rank": "mean over the lists' places, from 0, the most popular item, to 1",
        "Gini": "how unevenly the lists' places are spread over the items, from 0, evenly, to 1",
    },
    "learned": {
        "term": "a part of the sum by which items are ranked",
        "decay length": "number of newer events after which an event has 1/e of its weight",
        "half-life": "time after which the attention to an event is halved, all else equal: "
        "ln 2 / decay rate",
    },
    "training": {
        "refit": "training continued on train and validation, from the epoch that validation chose",
    },
}


def glossary_html(topics: Collection[str]) -> str:
    """A list of the terms of some topics, in a fixed order.

    Args:
        topics: Of "lists", "marks", "intervals", "predictions", "popularity", "learned" and
            "training".
    """
    rows = "".join(
        f"<div><dt>{html.escape(term)}</dt><dd>{html.escape(meaning)}</dd></div>"
        for topic, terms in _TERMS.items()
        if topic in topics
        for term, meaning in terms.items()
    )
    return f'<dl class="terms">{rows}</dl>'
