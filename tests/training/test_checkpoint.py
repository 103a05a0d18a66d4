"""What a checkpoint must say of the training; its tensors are in test_loop.py."""

from __future__ import annotations

import pytest

from emorec.training.checkpoint import GRAPH, EpochRecord, _checked_progress

RECORD = {"epoch": 1, "loss": 0.5, "seconds": 1.0, "valid": {"ndcg": 0.25}, "part": GRAPH}
ABOUT = {"records": [RECORD], "best_score": 0.25, "epochs_without_gain": 0}


def test_what_is_right():
    found = _checked_progress("this", {}, ABOUT)
    assert found.records == [EpochRecord(1, 0.5, 1.0, {"ndcg": 0.25}, GRAPH)]
    assert (found.best_score, found.epochs_without_gain) == (0.25, 0)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"epoch": 2}, "the records are not of epochs 1, 2, ..."),
        ({"loss": "0.5"}, "epoch 1 has loss '0.5'"),
        ({"seconds": None}, "epoch 1 has loss 0.5"),
        ({"part": "head"}, "epoch 1 is of the part 'head'"),
        ({"valid": [0.25]}, r"epoch 1 has validation scores \[0.25\]"),
    ],
)
def test_records_that_are_none(record, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        _checked_progress("this", {}, ABOUT | {"records": [RECORD | record]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best_score": None}, "the best score is None, 0 epochs ago"),
        ({"epochs_without_gain": -1}, "the best score is 0.25, -1 epochs ago"),
        ({"epochs_without_gain": True}, "the best score is 0.25, True epochs ago"),
    ],
)
def test_scores_that_are_none(change, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        _checked_progress("this", {}, ABOUT | change)
