import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emorec.baselines import MostPop
from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation import predictions as polarity
from emorec.evaluation.predictions import (
    brier_score,
    calibration_error,
    evaluate_predictions,
    polarity_auc,
    roc_auc,
)

LOVE, LIKE, SKIP, HATE = Feedback


def log(rows, num_users, num_items):
    user, item, feedback, time = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Interactions(
        user, item, feedback, time, Vocabulary(range(num_users)), Vocabulary(range(num_items))
    )


def pairwise(scores, positive):
    """Share of (positive, negative) pairs in order, ties half."""
    wins = [
        (p > n) + (p == n) / 2
        for p, _ in filter(lambda row: row[1], zip(scores, positive, strict=True))
        for n, _ in filter(lambda row: not row[1], zip(scores, positive, strict=True))
    ]
    return sum(wins) / len(wins) if wins else math.nan


class TestPolarityAuc:
    # User 0: likes 1 and 3, dislikes 2. User 1: likes only. User 2: dislikes only. 3: no hold-out.
    TEST = log(
        [(0, 1, LOVE, 1), (0, 2, HATE, 2), (0, 3, LIKE, 3), (1, 0, LIKE, 0), (2, 4, SKIP, 0)], 4, 5
    )

    def auc(self, row, users=(0,), **options):
        scores = torch.tensor([row]).expand(4, -1)
        return polarity_auc(lambda batch: scores[batch], np.array(users), self.TEST, **options)

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ([9.0, 3.0, 1.0, 2.0, 9.0], 1.0),
            ([0.0, 3.0, 2.0, 1.0, 0.0], 0.5),  # one like above, one below
            ([0.0, 2.0, 2.0, 1.0, 0.0], 0.25),  # one tie, one below
            ([0.0, 7.0, 7.0, 7.0, 0.0], 0.5),  # ties throughout
            ([0.0, 1.0, 3.0, 2.0, 0.0], 0.0),
        ],
    )
    def test_hand_worked(self, row, expected):
        assert self.auc(row)[0] == expected

    def test_without_both_kinds_it_is_nan(self):
        found = self.auc([0.0, 2.0, 1.0, 2.0, 0.0], users=[3, 0, 2, 1])
        assert found.index.tolist() == [3, 0, 2, 1]
        assert found.name == "polarity_auc"
        assert found[0] == 1
        assert found[[3, 2, 1]].isna().all()

    def test_a_repeated_pair_counts_once_with_its_last_feedback(self):
        test = log([(0, 0, HATE, 9), (0, 0, LIKE, 5), (0, 1, LIKE, 1)], 1, 2)
        auc = polarity_auc(lambda users: torch.tensor([[1.0, 2.0]]), [0], test)
        assert auc[0] == 1

    def test_popularity_is_a_scorer_like_any_other(self):
        popular = MostPop().fit(log([(0, 1, LIKE, 0), (1, 1, LIKE, 0), (0, 3, LIKE, 0)], 4, 5))
        assert polarity_auc(popular, [0], self.TEST)[0] == 1

    def test_scores_in_the_scorers_precision_without_gradients(self):
        weight = torch.tensor(
            [[0.0, 1 + 2.0**-40, 1.0, 2.0, 0.0]], dtype=torch.float64, requires_grad=True
        )
        assert polarity_auc(lambda users: weight * 1, [0], self.TEST)[0] == 1

    def test_wrong_input_is_refused(self):
        with pytest.raises(ValueError, match="user 4 is out of range"):
            self.auc([0.0] * 5, users=[4])
        with pytest.raises(ValueError, match=r"must return float \[1, 5\]"):
            self.auc([0.0] * 3)
        with pytest.raises(ValueError, match="user 0, item 0: the score is nan"):
            self.auc([math.nan] * 5)
        with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
            self.auc([0.0] * 5, chunk_size=0)

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(1, 3))
    def test_against_all_pairs_in_any_chunks(self, seed, levels):
        rng = np.random.default_rng(seed)
        scores = rng.integers(0, levels + 1, (6, 9)).astype(np.float32)
        kinds = rng.integers(0, 4, (6, 9))
        rows = [
            (user, item, kinds[user, item], 0)
            for user, item in np.argwhere(rng.random((6, 9)) < 0.5)
        ]
        test = log(rows, 6, 9)
        users = rng.permutation(6)[:4]
        expected = [
            pairwise(
                [scores[user, item] for owner, item, *_ in rows if owner == user],
                [kind <= LIKE for owner, _, kind, _ in rows if owner == user],
            )
            for user in users
        ]
        for size in (None, 1, 3):
            found = polarity_auc(lambda batch: torch.from_numpy(scores)[batch], users, test, size)
            np.testing.assert_allclose(found, expected, rtol=1e-12)
            pd.testing.assert_index_equal(found.index, pd.Index(users, name="user"))


class TestEvaluatePredictions:
    def test_are_those_of_the_held_out_pairs(self):
        rows = [(0, 1, LOVE, 1), (0, 2, HATE, 2), (2, 0, SKIP, 0), (2, 2, LIKE, 0), (1, 1, LIKE, 0)]
        rows.append((1, 1, HATE, 5))  # the last time counts
        predicted = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.2, 0.0], [0.8, 0.0, 0.6]])
        pairs = np.array([0.9, 0.3, 0.2, 0.8, 0.6])  # by user, then item
        is_positive = np.array([True, False, False, False, True])
        for size in (None, 1, 2):
            found = evaluate_predictions(lambda users: predicted[users], log(rows, 4, 3), size)
            assert found["polarity_auc"] == (1 + 0) / 2  # users 0 and 2
            assert found["roc_auc"] == pytest.approx(roc_auc(pairs, is_positive))
            assert found["brier_score"] == pytest.approx(brier_score(pairs, is_positive))
            assert found["calibration_error"] == pytest.approx(
                calibration_error(pairs, is_positive)
            )

    def test_without_a_user_who_likes_and_dislikes(self):
        found = evaluate_predictions(
            lambda users: torch.tensor([[0.25, 0.5]]), log([(0, 1, LIKE, 1)], 1, 2)
        )
        assert math.isnan(found["polarity_auc"])
        assert math.isnan(found["roc_auc"])
        assert found["brier_score"] == 0.25

    def test_no_probability(self):
        with pytest.raises(ValueError, match=r"the probability is 1.5, must be in \[0, 1\]"):
            evaluate_predictions(lambda users: torch.tensor([[1.5]]), log([(0, 0, LIKE, 1)], 1, 1))


class TestPredictions:
    def test_roc_auc(self):
        # Pairs: .9 beats .3 and .6; .6 beats .3 and ties with .6.
        probability = np.array([0.9, 0.6, 0.6, 0.3])
        is_positive = np.array([True, True, False, False])
        assert roc_auc(probability, is_positive) == 3.5 / 4
        assert math.isnan(roc_auc(probability, np.ones(4, bool)))
        assert math.isnan(roc_auc(np.zeros(0), np.zeros(0, bool)))

    def test_brier_score(self):
        assert brier_score(np.array([0.9, 0.2]), np.array([True, False])) == pytest.approx(
            (0.1**2 + 0.2**2) / 2
        )
        assert math.isnan(brier_score(np.zeros(0), np.zeros(0, bool)))

    def test_calibration_error(self):
        # Two bins, (0, .5] and (.5, 1]. The first holds .5 and .1 (mean .3) with one of two
        # positive; the second .8 and .6 (mean .7) with two of two.
        probability = np.array([0.5, 0.1, 0.8, 0.6])
        is_positive = np.array([True, False, True, True])
        expected = 2 / 4 * abs(0.3 - 0.5) + 2 / 4 * abs(0.7 - 1.0)
        assert calibration_error(probability, is_positive, bins=2) == pytest.approx(expected)
        assert math.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))

    def test_the_ends_have_bins(self):
        assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0
        assert calibration_error(np.array([0.0, 1.0]), np.array([True, False])) == 1

    def test_an_honest_constant_is_calibrated_but_says_nothing(self):
        is_positive = np.arange(100) < 70
        constant = np.full(100, 0.7)
        assert calibration_error(constant, is_positive) == pytest.approx(0, abs=1e-12)
        assert brier_score(constant, is_positive) == pytest.approx(0.7 * 0.3)
        assert roc_auc(constant, is_positive) == 0.5

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40),
        st.integers(1, 7),
    )
    def test_against_loops(self, events, bins):
        probability = np.array([level / 20 for level, _ in events])
        is_positive = np.array([label for _, label in events])
        expected = pairwise(probability.tolist(), is_positive.tolist())
        np.testing.assert_allclose(roc_auc(probability, is_positive), expected)
        total = 0.0
        for b in range(bins):
            upper, lower = (b + 1) / bins, b / bins if b else -1
            inside = (probability > lower) & (probability <= upper)
            if inside.any():
                gap = probability[inside].mean() - is_positive[inside].mean()
                total += inside.mean() * abs(gap)
        assert calibration_error(probability, is_positive, bins) == pytest.approx(total, abs=1e-12)

    @pytest.mark.parametrize("name", ["roc_auc", "brier_score", "calibration_error"])
    @pytest.mark.parametrize(
        ("probability", "is_positive", "message"),
        [
            ([0.5, 0.5], [True], r"must both be \[N\], got \[2\] and \[1\]"),
            ([[0.5]], [[True]], r"got \[1, 1\]"),
            ([0.5], [1], "is_positive must be bool, got int64"),
            ([0.5, 1.5], [True, True], r"row 1: the probability is 1.5, must be in \[0, 1\]"),
            ([math.nan], [True], "row 0: the probability is nan"),
        ],
    )
    def test_wrong_input_is_refused(self, name, probability, is_positive, message):
        with pytest.raises(ValueError, match=message):
            getattr(polarity, name)(np.array(probability), np.array(is_positive))

    def test_bins_must_be_some(self):
        with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
            calibration_error(np.array([0.5]), np.array([True]), bins=0)
