"""What a model learned, in figures: decay, kinds of feedback, and the weights of the ranking."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import pandas as pd

from emorec.data.interactions import TimeUnit
from emorec.inference.ranking import dislike_weight
from emorec.nn.feedback_paths import DISLIKE_DECAY
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.nn.sequence_encoder import HawkesLayer

__all__ = ["learned_tables"]

_CHOSEN, _SET, _FIXED = "validation", "setting", "fixed"


def learned_tables(model: Recommender, time_unit: TimeUnit) -> dict[str, pd.DataFrame]:
    """What a model learned, as tables by heading; those of parts that it lacks are absent.

    Args:
        model: The trained model.
        time_unit: Of its log. Without times, attention does not decay with time.

    Returns:
        "terms of the ranking": each ``term`` with its ``weight``, what that is ``from`` and the
        ``decay length`` in events (inf: all events contribute alike; NaN: the term has none);
        "heads of the attention": ``layer`` and ``head``, ``half-life (days)`` and
        ``decay rate (per day)``; "kinds of feedback in the feedback sum": ``kind`` and ``weight``.
    """
    tables = {"terms of the ranking": _terms(model)}
    if model.sequence_encoder is not None and time_unit != "none":
        tables["heads of the attention"] = _heads(model)
    if model.feedback_sum is not None:
        kinds = [target for source, _, target in model.feedback_sum.relations if source == "item"]
        tables["kinds of feedback in the feedback sum"] = pd.DataFrame(
            {
                "kind": ["all" if kind == "user" else kind.replace("_", " ") for kind in kinds],
                "weight": model.feedback_sum.kind_weight.detach().cpu().double().numpy(),
            }
        )
    return tables


def _terms(model: Recommender) -> pd.DataFrame:
    rows: list[tuple[str, float, str, float]] = []
    if model.item_embedding is not None:
        rows.append(("next item", 1.0, _FIXED, math.nan))
    for name, part in (("graph", model.feedback_sum), ("paths", model.feedback_paths)):
        if part is not None:
            rows.append((name, float(part.ranking_weight), _CHOSEN, float(part.decay_length)))
    if isinstance(model.polarity, ItemPolarity):
        rows.append(("liked", model.aversion, _SET, math.nan))
    if model.feedback_paths is not None:
        rows.append(("dislikes", -dislike_weight(model.aversion), _SET, DISLIKE_DECAY))
    return pd.DataFrame(rows, columns=["term", "weight", "from", "decay length"])


def _heads(model: Recommender) -> pd.DataFrame:
    assert model.sequence_encoder is not None
    layers = cast(Iterable[HawkesLayer], model.sequence_encoder.layers)
    rows = [
        (layer, head, math.log(2) / rate, rate)
        for layer, each in enumerate(layers, start=1)
        for head, rate in enumerate(each.decay_rate.tolist(), start=1)
    ]
    return pd.DataFrame(rows, columns=["layer", "head", "half-life (days)", "decay rate (per day)"])
