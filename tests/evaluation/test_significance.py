import itertools
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from emorec.data.interactions import Interactions
from emorec.evaluation import significance
from emorec.evaluation.significance import (
    bootstrap_intervals,
    compare,
    confidence_intervals,
    holm,
    mean_over_seeds,
    over_seeds,
    paired_test,
)
from emorec.evaluation.top_k import LOWER_IS_BETTER, TopK, evaluate


def column(values):
    return np.asarray(values, dtype=np.float64)[:, None]


class TestBootstrap:
    def test_two_users(self):
        # Draws have mean 0, 1/2 or 1 with chances 1/4, 1/2, 1/4: the middle 95 % is all of [0, 1].
        low, high = bootstrap_intervals(column([0, 1]))
        assert (low[0], high[0]) == (0, 1)

    def test_equal_values_have_an_interval_of_no_width(self):
        low, high = bootstrap_intervals(column([0.25] * 7))
        assert (low[0], high[0]) == (0.25, 0.25)

    def test_against_scipy(self):
        values = np.random.default_rng(1).beta(0.5, 3, 300)
        reference = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=9999,
            method="percentile",
            random_state=np.random.default_rng(2),
        ).confidence_interval
        low, high = bootstrap_intervals(column(values), resamples=9999)
        # Ends of 9,999 draws move by about a fiftieth of the width.
        width = reference.high - reference.low
        assert low[0] == pytest.approx(reference.low, abs=width / 25)
        assert high[0] == pytest.approx(reference.high, abs=width / 25)

    def test_against_the_normal_approximation_for_many_users(self):
        values = np.random.default_rng(3).random(4000)
        low, high = bootstrap_intervals(column(values))
        half = 1.96 * values.std() / math.sqrt(4000)
        assert low[0] == pytest.approx(values.mean() - half, abs=half / 10)
        assert high[0] == pytest.approx(values.mean() + half, abs=half / 10)

    def test_a_ratio_against_all_draws(self):
        # 27 equally likely draws of 3 users; their 2.5 % and 97.5 % quantiles by enumeration.
        above, below = np.array([0.0, 1.0, 3.0]), np.array([2.0, 1.0, 4.0])
        ratios = [
            above[list(draw)].sum() / below[list(draw)].sum()
            for draw in itertools.product(range(3), repeat=3)
        ]
        low, high = bootstrap_intervals(column(above), column(below), resamples=20_000)
        assert low[0] == min(ratios) == 0  # the least and the greatest have chance 1/27 > 2.5 %
        assert high[0] == max(ratios) == 1

    def test_the_scale_of_both_does_not_matter(self):
        above, below = np.random.default_rng(6).integers(0, 3, (2, 20, 1))
        small = bootstrap_intervals(above / 64, below / 64)
        np.testing.assert_array_equal(small, bootstrap_intervals(above, below))

    def test_users_without_a_value_do_not_count(self):
        values = np.random.default_rng(4).random(50)
        padded = np.append(values, np.zeros(50))
        known = np.append(np.ones(50), np.zeros(50))
        low, high = bootstrap_intervals(column(padded), column(known))
        alone_low, alone_high = bootstrap_intervals(column(values))
        # As narrow as without them but for the number of known users, which varies.
        assert high[0] - low[0] == pytest.approx(alone_high[0] - alone_low[0], rel=0.1)
        assert low[0] < values.mean() < high[0]

    def test_nobody_has_a_value(self):
        numerator, denominator = np.zeros((3, 2)), np.array([[0.0, 1.0]] * 3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            low, high = bootstrap_intervals(numerator, denominator)
        assert math.isnan(low[0]) and math.isnan(high[0])
        assert (low[1], high[1]) == (0, 0)

    def test_draws_without_any_value_are_left_out(self):
        low, high = bootstrap_intervals(column([1, 0, 0, 0]), column([1, 0, 0, 0]))
        assert (low[0], high[0]) == (1, 1)

    def test_draws_without_any_value_do_not_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bootstrap_intervals(column([1, 0]), column([1, 0]))

    def test_defaults(self):
        values = np.random.default_rng(5).random((40, 2))
        expected = bootstrap_intervals(values, resamples=2000, rng=0)
        np.testing.assert_array_equal(bootstrap_intervals(values), expected)
        per_user = pd.DataFrame({"recall_any": values[:, 0], "hits_dislikes": 0, "hits_any": 1})
        pd.testing.assert_frame_equal(
            confidence_intervals(per_user),
            confidence_intervals(per_user, resamples=2000, rng=0),
            check_exact=True,
        )

    def test_one_draw_is_the_least(self):
        low, high = bootstrap_intervals(column([0, 1, 4]), resamples=1)
        assert low[0] == high[0] in np.arange(13) / 3

    def test_no_users(self):
        low, high = bootstrap_intervals(np.zeros((0, 2)))
        assert np.isnan(low).all() and np.isnan(high).all()

    def test_the_seed_decides_and_chunks_do_not(self, monkeypatch):
        values = np.random.default_rng(5).random((40, 2))
        first = bootstrap_intervals(values, resamples=100)
        np.testing.assert_array_equal(first, bootstrap_intervals(values, resamples=100, rng=0))
        other = bootstrap_intervals(values, resamples=100, rng=1)
        assert not np.array_equal(first, other)
        monkeypatch.setattr(significance, "_CELLS_PER_CHUNK", 7 * 40)
        np.testing.assert_allclose(first, bootstrap_intervals(values, resamples=100), rtol=1e-12)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((np.zeros(3),), r"must be \[U, C\], got \[3\]"),
            ((np.zeros((3, 1)), np.zeros((3, 2))), r"got \[3, 1\] and \[3, 2\]"),
            ((np.full((3, 1), np.nan),), "a value is not finite"),
            ((np.zeros((3, 1)), np.ones((3, 1)), 0), "resamples must be at least 1, got 0"),
        ],
    )
    def test_wrong_input_is_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            bootstrap_intervals(*arguments)


class TestConfidenceIntervals:
    def test_the_means_are_those_of_the_summary(self):
        rng = np.random.default_rng(0)
        test = Interactions.from_columns(
            rng.integers(0, 30, 200), rng.integers(0, 20, 200), rng.integers(0, 4, 200), range(200)
        )
        lists = np.stack([rng.permutation(test.num_items)[:5] for _ in range(test.num_users)])
        top = TopK(torch.from_numpy(lists), torch.zeros(lists.shape))
        found = evaluate(top, np.arange(test.num_users), test, 5)
        summary, table = found.summary(), confidence_intervals(found.per_user, resamples=200)
        assert set(table.index) == {
            *(name for name in found.per_user.columns if not name.startswith("hits_")),
            "disliked_share",
        }
        for name, row in table.iterrows():
            assert row["mean"] == pytest.approx(summary[name], rel=1e-12)
            assert row["low"] <= row["mean"] <= row["high"]

    def test_one_user_with_a_value(self):
        recall = [0.5, math.nan, math.nan]
        frame = pd.DataFrame({"recall_any": recall, "hits_dislikes": 0, "hits_any": [1, 0, 0]})
        found = confidence_intervals(frame)
        assert found.loc["recall_any"].tolist() == [0.5, 0.5, 0.5]
        assert found.loc["disliked_share"].tolist() == [0, 0, 0]

    def test_without_hits_the_share_has_no_interval(self):
        frame = pd.DataFrame({"recall_any": [0.0], "hits_dislikes": [0.0], "hits_any": [0.0]})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = confidence_intervals(frame)
        assert found.loc["disliked_share"].isna().all()


class TestPairedTest:
    def test_against_scipy(self):
        rng = np.random.default_rng(0)
        ours, theirs = rng.random(200), rng.random(200)
        ours[:60] = theirs[:60]
        found = paired_test(pd.Series(ours), pd.Series(theirs))
        assert found.num_users == 200
        assert found.difference == pytest.approx((ours - theirs).mean())
        assert found.p_t == pytest.approx(stats.ttest_rel(ours, theirs).pvalue, rel=1e-12)
        # Users with equal values are dropped.
        assert found.p_wilcoxon == pytest.approx(
            stats.wilcoxon(ours[60:], theirs[60:]).pvalue, rel=1e-12
        )

    def test_hand_worked(self):
        # Differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641 with 2 degrees of freedom, p = 0.0742.
        # All ranks are positive: the most extreme of 2^3 sign patterns, two-sided p = 2/8.
        found = paired_test(pd.Series([1.0, 2.0, 3.0]), pd.Series([0.0, 0.0, 0.0]))
        assert found.p_t == pytest.approx(0.0741799, abs=1e-7)
        assert found.p_wilcoxon == pytest.approx(0.25)

    def test_only_common_users_with_both_values_count(self):
        ours = pd.Series([5.0, 1.0, 2.0, 3.0, math.nan], index=[9, 0, 1, 2, 3])
        theirs = pd.Series([0.0, 0.0, 0.0, 7.0, 7.0], index=[2, 1, 0, 3, 8])
        assert paired_test(ours, theirs) == paired_test(
            pd.Series([1.0, 2.0, 3.0]), pd.Series([0.0, 0.0, 0.0])
        )

    def test_equal_models(self):
        same = pd.Series([0.1, 0.2, 0.3])
        found = paired_test(same, same)
        assert (found.difference, found.p_t, found.p_wilcoxon) == (0, 1, 1)

    def test_two_users_are_enough(self):
        found = paired_test(pd.Series([1.0, 3.0]), pd.Series([0.0, 0.0]))
        assert found.p_t == pytest.approx(stats.ttest_1samp([1.0, 3.0], 0).pvalue)

    @pytest.mark.parametrize("values", [[], [1.0]])
    def test_too_few_users(self, values):
        found = paired_test(pd.Series(values, dtype=float), pd.Series(0.0, range(len(values))))
        assert found.num_users == len(values)
        assert math.isnan(found.p_t) and math.isnan(found.p_wilcoxon)


class TestHolm:
    def test_hand_worked(self):
        # Ascending: .01 * 4 = .04, .02 * 3 = .06, .025 * 2 = .05 -> .06 (never less), .5 * 1.
        assert holm([0.02, 0.5, 0.01, 0.025]).tolist() == pytest.approx([0.06, 0.5, 0.04, 0.06])

    def test_never_above_one(self):
        assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]

    def test_nan_is_no_test(self):
        found = holm([0.01, math.nan, 0.04])
        assert found[0] == pytest.approx(0.02)
        assert math.isnan(found[1])
        assert found[2] == pytest.approx(0.04)

    def test_empty(self):
        assert holm([]).tolist() == []

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.999))
    def test_rejects_what_the_sequential_rule_rejects(self, p_values, level):
        corrected = holm(p_values)
        rejected, remaining = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
        while remaining and p_values[remaining[0]] * len(remaining) <= level:
            rejected.add(remaining.pop(0))
        assert {index for index, p in enumerate(corrected) if p <= level} == rejected


def frame(recall, ndcl, disliked, hits):
    return pd.DataFrame(
        {"recall_any": recall, "ndcl": ndcl, "hits_dislikes": disliked, "hits_any": hits},
        dtype=float,
    )


class TestCompare:
    MODELS = {
        "weak": frame([0.1, 0.2, 0.0, 0.1], [0.9, 0.8, math.nan, 0.7], [2, 1, 1, 0], [2, 2, 2, 2]),
        "ours": frame([0.5, 0.3, 0.4, 0.0], [0.3, 0.1, math.nan, 0.2], [0, 1, 0, 0], [2, 3, 1, 2]),
        "good": frame([0.2, 0.4, 0.2, 0.0], [0.5, 0.1, math.nan, 0.0], [1, 1, 1, 1], [2, 2, 2, 2]),
    }

    def test_hand_worked(self):
        table = compare(self.MODELS, "ours", ["recall_any", "ndcl"])
        assert table.index.tolist() == [
            ("recall_any", "weak"),
            ("recall_any", "good"),
            ("ndcl", "weak"),
            ("ndcl", "good"),
        ]
        assert table["ours"].tolist() == pytest.approx([0.3, 0.3, 0.2, 0.2])
        assert table["theirs"].tolist() == pytest.approx([0.1, 0.2, 0.8, 0.2])
        # Where lower is better, lower by three quarters is an improvement by 75 %.
        assert table["improvement"].tolist() == pytest.approx([200, 50, 75, 0], abs=1e-9)
        assert table["users"].tolist() == [4, 4, 3, 3]
        assert table["best"].tolist() == [False, True, False, True]

    def test_the_family_is_the_whole_table(self):
        table = compare(self.MODELS, "ours", ["recall_any", "ndcl"])
        for metric, peer in table.index:
            alone = paired_test(self.MODELS["ours"][metric], self.MODELS[peer][metric])
            assert table.loc[(metric, peer), "p_t"] == alone.p_t
            assert table.loc[(metric, peer), "p_wilcoxon"] == alone.p_wilcoxon
        assert table["holm_t"].tolist() == holm(table["p_t"]).tolist()
        assert table["holm_wilcoxon"].tolist() == holm(table["p_wilcoxon"]).tolist()

    def test_the_pooled_share(self):
        table = compare(self.MODELS, "ours", ["disliked_share"])
        assert table["ours"].tolist() == pytest.approx([1 / 8] * 2)
        assert table["theirs"].tolist() == pytest.approx([4 / 8, 4 / 8])
        assert table["improvement"].tolist() == pytest.approx([75, 75])
        assert table["best"].tolist() == [True, False]  # of equal ones the first
        assert table["p_wilcoxon"].isna().all()

    def test_the_share_test_against_the_delta_method(self):
        # The variance of a difference of two ratios of means over the same users, to first order:
        # g' C g / n with C the covariance of (d1, h1, d2, h2) and g the gradient of d1/h1 - d2/h2.
        rng = np.random.default_rng(0)
        hits = rng.integers(0, 5, (2, 500))
        disliked = rng.binomial(hits, [[0.3], [0.36]])
        models = {
            name: pd.DataFrame({"hits_dislikes": disliked[i], "hits_any": hits[i]})
            for i, name in enumerate("ab")
        }
        (d1, d2), (h1, h2) = disliked.mean(axis=1), hits.mean(axis=1)
        gradient = np.array([1 / h1, -d1 / h1**2, -1 / h2, d2 / h2**2])
        columns = np.stack([disliked[0], hits[0], disliked[1], hits[1]])
        error = math.sqrt(gradient @ np.cov(columns) @ gradient / 500)
        expected = 2 * stats.t.sf(abs(d1 / h1 - d2 / h2) / error, 499)
        assert 0.001 < expected < 0.2
        found = compare(models, "a", ["disliked_share"]).iloc[0]
        assert found["p_t"] == pytest.approx(expected, rel=1e-9)
        assert found["ours"] == pytest.approx(disliked[0].sum() / hits[0].sum(), rel=1e-12)

    def test_undefined(self):
        nothing = frame([math.nan] * 2, [0, 0], [0, 0], [0, 0])
        table = compare(
            {"a": nothing, "b": nothing}, "a", ["recall_any", "ndcl", "disliked_share"]
        ).droplevel("peer")
        assert table["improvement"].isna().all()
        assert table["best"].tolist() == [False, True, False]
        assert table["users"].tolist() == [0, 2, 0]

    def test_wrong_input_is_refused(self):
        with pytest.raises(ValueError, match="no model 'x'; the models are weak, ours, good"):
            compare(self.MODELS, "x", ["ndcl"])
        with pytest.raises(ValueError, match="no other model to compare 'ours' with"):
            compare({"ours": self.MODELS["ours"]}, "ours", ["ndcl"])
        with pytest.raises(ValueError, match="model 'ours' lacks 'mrr_any'"):
            compare(self.MODELS, "ours", ["mrr_any"])

    def test_every_figure_that_should_be_low_exists(self):
        test = Interactions.from_columns([5], [7], [3], [0])
        found = evaluate(TopK(torch.tensor([[0]]), torch.zeros(1, 1)), np.array([0]), test, 1)
        assert set(found.summary()) >= LOWER_IS_BETTER


class TestSeeds:
    def test_over_seeds(self):
        table = over_seeds([{"a": 1, "b": 5.0}, {"b": 5.0, "a": 2}, {"a": 3, "b": math.nan}])
        assert table.loc["a"].tolist() == [2.0, 1.0]
        assert table.loc["b"].isna().all()  # undefined for one seed is undefined for all

    def test_one_run_has_no_spread(self):
        table = over_seeds([{"a": 1}])
        assert table.loc["a", "mean"] == 1
        assert math.isnan(table.loc["a", "sd"])

    def test_mean_over_seeds(self):
        one = pd.DataFrame({"x": [0.0, 1.0, math.nan]}, index=[4, 2, 7])
        two = pd.DataFrame({"x": [1.0, 1.0, math.nan]}, index=[4, 2, 7])
        mean = mean_over_seeds([one, two])
        assert mean.index.tolist() == [4, 2, 7]
        assert mean["x"].tolist()[:2] == [0.5, 1.0]
        assert math.isnan(mean.loc[7, "x"])

    def test_the_mean_of_one_run_is_that_run(self):
        one = pd.DataFrame({"x": [0.0, 1.0]}, index=[4, 2])
        pd.testing.assert_frame_equal(mean_over_seeds([one]), one)

    def test_wrong_input_is_refused(self):
        with pytest.raises(ValueError, match="no run"):
            over_seeds([])
        with pytest.raises(ValueError, match="run 1 and run 0 differ in their figures: a, b"):
            over_seeds([{"a": 1}, {"b": 1}])
        with pytest.raises(ValueError, match="no run"):
            mean_over_seeds([])
        one = pd.DataFrame({"x": [0.0, 1.0]})
        for other in (one.iloc[::-1], one.rename(columns={"x": "y"})):
            with pytest.raises(ValueError, match="run 1 has other users or columns"):
                mean_over_seeds([one, other])
