import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from emorec.reports.curves import Curves, curves_svgs

pytest.importorskip("matplotlib")


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def epochs_of(svg):
    """Labels below the axis: the first ones that are drawn."""
    found = texts(svg)
    return found[: found.index("epoch")]


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(1, ["1"]), (2, ["1", "2"]), (7, ["1", "3", "5", "7"]), (13, ["1", "4", "7", "10", "13"])],
)
def test_ticks_are_whole_epochs(epochs, expected):
    curves = Curves("encoders", "ndcg", [1.0] * epochs, [0.5] * epochs)
    for svg in curves_svgs(curves, "x"):
        assert epochs_of(svg) == expected
        ElementTree.fromstring(svg)


def test_the_refit_follows_the_chosen_epoch():
    curves = Curves("encoders", "ndcg", [3.0, 2.0], [0.2, 0.1], 1, [2.5, 2.4, 2.3])
    loss, score = curves_svgs(curves, "x")
    assert epochs_of(loss) == ["1", "2", "3", "4"]  # 1 and three more
    assert texts(loss).count("refit") == 1 and "stroke-dasharray" in loss
    assert "refit" not in texts(score) and "stroke-dasharray" not in score
    without, _ = curves_svgs(Curves("encoders", "ndcg", [3.0], [0.2]), "x")
    assert "refit" not in texts(without)


def test_the_loss_has_a_colour_of_its_own():
    loss, score = curves_svgs(Curves("graph", "ndcg", [3.0, 2.0], [0.2, 0.1]), "x")
    assert "var(--loss)" in loss and "var(--accent)" not in loss
    assert "var(--accent)" in score and "var(--loss)" not in score
    assert "graph: training loss" in texts(loss)
    assert "graph: validation ndcg" in texts(score)


def test_the_best_epoch_is_marked():
    _, score = curves_svgs(Curves("graph", "ndcg", [3, 2, 1], [0.2, 0.31, None]), "x")
    assert "0.3100" in texts(score)


def test_what_was_not_measured():
    loss, score = curves_svgs(Curves("graph", "ndcg", [math.nan], [None]), "x")
    assert "not measured" in texts(loss) and "not measured" in texts(score)


def test_a_score_per_loss():
    with pytest.raises(ValueError, match="'graph' has 2 losses and 1 scores of validation"):
        Curves("graph", "ndcg", [1.0, 2.0], [0.5])
