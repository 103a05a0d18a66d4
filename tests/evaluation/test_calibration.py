import numpy as np
import pytest

from emorec.evaluation.calibration import reliability
from emorec.evaluation.predictions import HeldOutPredictions


def predictions(probability, is_positive):
    return HeldOutPredictions(
        np.zeros(len(probability), np.int64), np.array(probability, float), np.array(is_positive)
    )


def test_two_bins_of_two():
    found = reliability(predictions([0.9, 0.1, 0.3, 0.7], [True, False, True, True]), bins=2)
    assert found["predicted"].tolist() == pytest.approx([0.2, 0.8])
    assert found["observed"].tolist() == [0.5, 1.0]
    assert found["events"].tolist() == [2, 2]


def test_sizes_differ_by_one_at_most():
    probability = np.random.default_rng(0).permutation(23) / 23
    found = reliability(predictions(probability, probability > 0.5), bins=10)
    assert len(found) == 10
    assert sorted(found["events"].unique()) == [2, 3]
    assert found["events"].sum() == 23
    assert found["predicted"].is_monotonic_increasing


def test_equal_probabilities_stay_together():
    found = reliability(predictions([0.2] * 5 + [0.8], [True] + [False] * 4 + [True]), bins=3)
    assert found["events"].tolist() == [5, 1]
    assert found["observed"].tolist() == [0.2, 1.0]


def test_no_events():
    assert len(reliability(predictions([], np.zeros(0, bool)))) == 0


def test_bins():
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        reliability(predictions([0.5], [True]), bins=0)
