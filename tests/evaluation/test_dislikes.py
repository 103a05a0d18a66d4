import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emorec.data.feedback import Feedback
from emorec.evaluation.dislikes import dislike_rate, ndcl, signed_ndcg

LOVE, LIKE, SKIP, HATE = Feedback
NONE = -1
LIST_METRICS = [dislike_rate, ndcl, signed_ndcg]
SECOND, THIRD = 1 / math.log2(3), 1 / 2  # discounts


def value(metric, listed, held_out):
    result = metric(torch.tensor([listed]), torch.tensor([held_out]))
    assert result.dtype == torch.float64
    assert result.shape == (1,)
    return result.item()


class TestListMetrics:
    # Held out: one of each kind but two explicit dislikes. A list of 3.
    HELD_OUT = [1, 1, 1, 2]

    def test_dislike_rate(self):
        assert value(dislike_rate, [LOVE, SKIP, HATE], self.HELD_OUT) == pytest.approx(2 / 3)
        assert value(dislike_rate, [LOVE, NONE, NONE], self.HELD_OUT) == 0
        assert value(dislike_rate, [LOVE, NONE, NONE], [1, 0, 0, 0]) == 0  # nothing disliked: 0

    def test_ndcl(self):
        # Worst: both explicit dislikes, then the implicit one.
        worst = 3 + 3 * SECOND + 1 * THIRD
        assert value(ndcl, [HATE, HATE, SKIP], self.HELD_OUT) == 1.0
        assert value(ndcl, [LOVE, SKIP, HATE], self.HELD_OUT) == pytest.approx(
            (SECOND + 3 * THIRD) / worst, rel=1e-12
        )
        assert value(ndcl, [LOVE, NONE, LIKE], self.HELD_OUT) == 0

    def test_signed_ndcg(self):
        best, worst = 3 + SECOND, -(3 + 3 * SECOND + THIRD)
        assert value(signed_ndcg, [LOVE, LIKE, NONE], self.HELD_OUT) == 1.0
        assert value(signed_ndcg, [HATE, HATE, SKIP], self.HELD_OUT) == 0.0
        assert value(signed_ndcg, [NONE, SKIP, LOVE], self.HELD_OUT) == pytest.approx(
            (-SECOND + 3 * THIRD - worst) / (best - worst), rel=1e-12
        )

    def test_a_list_of_unknown_items(self):
        nothing = [NONE] * 3
        assert value(signed_ndcg, nothing, [2, 1, 0, 0]) == 0
        assert value(signed_ndcg, nothing, [0, 0, 1, 0]) == 1
        # best = 1 and worst = -3: an empty list lies three quarters up.
        assert value(signed_ndcg, nothing, [0, 1, 0, 1]) == pytest.approx(3 / 4, rel=1e-12)

    def test_the_extremes_are_cut_at_k(self):
        # Five explicit dislikes, two places.
        assert value(ndcl, [HATE, HATE], [0, 0, 0, 5]) == 1.0
        assert value(ndcl, [HATE, NONE], [0, 0, 0, 5]) == pytest.approx(1 / (1 + SECOND))
        assert value(signed_ndcg, [LOVE, LOVE], [3, 3, 0, 0]) == 1.0
        assert value(signed_ndcg, [LOVE, LIKE], [3, 3, 0, 0]) < 1

    def test_rounding_never_carries_a_list_beyond_the_extremes(self):
        for first, second in itertools.product(range(1, 9), range(9)):
            best, worst = [LOVE] * first + [LIKE] * second, [HATE] * first + [SKIP] * second
            held_out = [first, second, second, first]
            assert 1 - 1e-12 < value(ndcl, worst, held_out) <= 1
            assert 0 <= value(signed_ndcg, worst, held_out) < 1e-12
            assert 1 - 1e-12 < value(signed_ndcg, best, held_out) <= 1
            assert 1 - 1e-12 < value(signed_ndcg, best, [first, second, 0, 0]) <= 1

    def test_without_what_they_are_about_they_are_nan(self):
        for metric in LIST_METRICS:
            assert math.isnan(value(metric, [NONE], [0, 0, 0, 0]))
        assert math.isnan(value(ndcl, [LOVE], [1, 1, 0, 0]))

    @pytest.mark.parametrize("metric", LIST_METRICS)
    def test_no_users(self, metric):
        assert metric(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 4).long()).shape == (0,)

    @pytest.mark.parametrize("dtype", [torch.int8, torch.int32])
    def test_any_integers(self, dtype):
        listed, held_out = torch.tensor([[3, 0]]), torch.tensor([[1, 0, 0, 1]])
        for metric in LIST_METRICS:
            assert metric(listed.to(dtype), held_out.to(dtype)) == metric(listed, held_out)

    @pytest.mark.parametrize("metric", LIST_METRICS)
    @pytest.mark.parametrize(
        ("listed", "held_out", "message"),
        [
            (torch.ones(1, 2), torch.ones(1, 4).long(), "listed must be integer, got torch.float"),
            (torch.ones(1, 2).bool(), torch.ones(1, 4).long(), "integer, got torch.bool"),
            (torch.ones(1, 2).long(), torch.ones(1, 4), "held_out must be integer"),
            (torch.ones(2).long(), torch.ones(2, 4).long(), r"\[U, k\] with k >= 1, got \[2\]"),
            (torch.ones(1, 0).long(), torch.ones(1, 4).long(), "k >= 1"),
            (torch.ones(2, 1).long(), torch.ones(1, 4).long(), r"= \[2, 4\], got \[1, 4\]"),
            (torch.tensor([[4]]), torch.ones(1, 4).long(), r"holds 4, must be .* 0 \.\. 3, or -1"),
            (torch.tensor([[-2]]), torch.ones(1, 4).long(), "holds -2"),
            (
                torch.tensor([[0, 1], [3, 3]]),
                torch.ones(2, 4).long(),
                "row 1: 2 places hold explicit_negative, but 1 such",
            ),
        ],
    )
    def test_wrong_input_is_refused(self, metric, listed, held_out, message):
        with pytest.raises(ValueError, match=message):
            metric(listed, held_out)

    @settings(deadline=None)
    @given(st.integers(1, 4), st.lists(st.integers(0, 2), min_size=4, max_size=4))
    def test_against_all_possible_lists(self, k, held_out):
        """The extremes are those of every list that a user may get."""
        pool = [kind for kind, count in zip(Feedback, held_out, strict=True) for _ in range(count)]
        lists = sorted(set(itertools.permutations(pool + [NONE] * k, k)))
        weights = {LOVE: 3, LIKE: 1, SKIP: -1, HATE: -3, NONE: 0}

        def dcg(listed):
            return sum(weights[kind] / math.log2(1 + r) for r, kind in enumerate(listed, 1))

        def loss(listed):
            return dcg([kind if kind >= SKIP else NONE for kind in listed])

        signed = [dcg(listed) for listed in lists]
        losses = [-loss(listed) for listed in lists]
        held = torch.tensor([held_out]).expand(len(lists), 4)
        got_signed = signed_ndcg(torch.tensor(lists), held).tolist()
        got_losses = ndcl(torch.tensor(lists), held).tolist()
        for index in range(len(lists)):
            if sum(held_out) == 0:
                assert math.isnan(got_signed[index])
            else:
                expected = (signed[index] - min(signed)) / (max(signed) - min(signed))
                assert got_signed[index] == pytest.approx(expected, abs=1e-12)
                assert 0 <= got_signed[index] <= 1
            if held_out[SKIP] + held_out[HATE] == 0:
                assert math.isnan(got_losses[index])
            else:
                assert got_losses[index] == pytest.approx(losses[index] / max(losses), abs=1e-12)
                assert 0 <= got_losses[index] <= 1
