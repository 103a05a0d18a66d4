"""How sure differences are: intervals over users, paired tests, spread over seeds.

Users are what a test set has many of, so they are what intervals and tests are taken over. Seeds
measure something else, the variation due to training, and are few: mean and deviation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emorec.evaluation.top_k import LOWER_IS_BETTER

__all__ = [
    "PairedTest",
    "bootstrap_intervals",
    "compare",
    "confidence_intervals",
    "holm",
    "mean_over_seeds",
    "over_seeds",
    "paired_test",
]

_CELLS_PER_CHUNK = 2**22  # 32 MiB of float64


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same users.

    Attributes:
        num_users: Users with a value of both.
        difference: Mean of ours minus the baseline's over them; NaN without any.
        p_t: p-value of the paired t-test, two-sided.
        p_wilcoxon: p-value of the Wilcoxon signed-rank test, two-sided; users with equal values
            are dropped from it.
    """

    num_users: int
    difference: float
    p_t: float
    p_wilcoxon: float


def bootstrap_intervals(
    numerator: np.ndarray,
    denominator: np.ndarray | None = None,
    resamples: int = 2000,
    rng: np.random.Generator | int | None = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """95 % confidence intervals of means, or of ratios of sums, over users.

    Users are drawn with replacement, as many as there are, ``resamples`` times; the interval holds
    the middle 95 % of ``sum of numerator / sum of denominator`` (percentile bootstrap). All columns
    share the draws.

    Args:
        numerator: Values of each user, ``[U, C]``.
        denominator: What they are divided by, ``[U, C]``, not negative; None stands for ones, which
            makes it a mean. Ones and zeros make it the mean over the users who have a value.
        resamples: Number of draws.
        rng: Generator or seed.

    Returns:
        Lower and upper ends, float64 ``[C]`` each; NaN where the denominators sum to 0. Draws
        in which they do are left out.

    Raises:
        ValueError: If the shapes are wrong, a value is not finite or ``resamples`` is below 1.

    References:
        B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    numerator = np.asarray(numerator, dtype=np.float64)
    below = np.ones_like(numerator) if denominator is None else np.asarray(denominator, np.float64)
    if numerator.ndim != 2 or below.shape != numerator.shape:
        raise ValueError(
            f"numerator and denominator must be [U, C], got {list(numerator.shape)} "
            f"and {list(below.shape)}"
        )
    if not (np.isfinite(numerator).all() and np.isfinite(below).all()):
        raise ValueError("a value is not finite; give users without one numerator and divisor 0")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    num_users, num_columns = numerator.shape
    low, high = np.full((2, num_columns), np.nan)
    known = below.sum(axis=0) > 0
    if known.any():
        sums = np.concatenate([numerator[:, known], below[:, known]], axis=1)
        parts = [
            counts @ sums for counts in _draws(num_users, resamples, np.random.default_rng(rng))
        ]
        above, below = np.split(np.concatenate(parts), 2, axis=1)
        ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        low[known], high[known] = np.nanquantile(ratios, [0.025, 0.975], axis=0)
    return low, high


def confidence_intervals(
    per_user: pd.DataFrame, resamples: int = 2000, rng: np.random.Generator | int | None = 0
) -> pd.DataFrame:
    """Bootstrap 95 % confidence intervals of the figures of `Evaluation.summary`.

    Args:
        per_user: The ``per_user`` of an `Evaluation`.
        resamples: Number of draws of users.
        rng: Generator or seed.

    Returns:
        Columns "mean", "low" and "high", one row per metric and one for ``disliked_share``, which
        is a ratio of sums and drawn as such.
    """
    metrics = per_user.loc[:, ~per_user.columns.str.startswith("hits_")]
    values = metrics.to_numpy(np.float64)
    numerator = np.column_stack([np.nan_to_num(values), per_user["hits_dislikes"]])
    denominator = np.column_stack([~np.isnan(values), per_user["hits_any"]])
    low, high = bootstrap_intervals(numerator, denominator, resamples, rng)
    above, below = numerator.sum(axis=0), denominator.sum(axis=0)
    mean = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
    names = [*metrics.columns, "disliked_share"]
    return pd.DataFrame({"mean": mean, "low": low, "high": high}, index=names)


def paired_test(values: pd.Series, baseline: pd.Series) -> PairedTest:
    """Tests whether two models differ, on the users that have a value of both.

    Args:
        values: A metric of our model by user, NaN where it has no value.
        baseline: The same metric of the other model.

    Returns:
        The tests. Equal values throughout have p = 1; below two common users p is NaN.
    """
    # Takes half a second to import, and only comparisons need it.
    from scipy import stats

    ours, theirs = values.dropna().align(baseline.dropna(), join="inner")
    difference = ours.to_numpy(np.float64) - theirs.to_numpy(np.float64)
    if len(difference) < 2:
        mean = float(difference.mean()) if len(difference) else float("nan")
        return PairedTest(len(difference), mean, float("nan"), float("nan"))
    if not difference.any():
        return PairedTest(len(difference), 0.0, 1.0, 1.0)
    return PairedTest(
        num_users=len(difference),
        difference=float(difference.mean()),
        p_t=float(stats.ttest_1samp(difference, 0).pvalue),
        p_wilcoxon=float(stats.wilcoxon(difference).pvalue),
    )


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values corrected for testing a whole family, by Holm's step-down rule.

    With the m p-values in ascending order ``p_1 .. p_m`` the i-th becomes
    ``max over j <= i of min(1, (m - j + 1) p_j)``. The chance of one or more false alarms in the
    family is then at most the level that the corrected values are compared with.

    Args:
        p_values: The family, ``[m]``; a NaN is no test and stays NaN.

    Returns:
        float64 ``[m]``, in the order given.

    References:
        S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
        Statistics 6(2), 1979.
    """
    raw = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(raw)[: np.count_nonzero(~np.isnan(raw))]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    corrected = np.full_like(raw, np.nan)
    corrected[order] = np.maximum.accumulate(raw[order] * factors).clip(max=1)
    return corrected


def compare(models: Mapping[str, pd.DataFrame], ours: str, metrics: Sequence[str]) -> pd.DataFrame:
    """One model against every other, metric by metric.

    Which peer is the best is seen from the same data that the test uses. Holm's correction
    therefore runs over all peers and all metrics of the table, not over the best ones alone.

    Args:
        models: ``per_user`` of an `Evaluation` by model; of several seeds, their
            `mean_over_seeds`.
        ours: The model that is compared with the others.
        metrics: Columns to compare, or "disliked_share". That is a ratio of sums, without values
            per user; it is tested on ``(d - S h) / mean(h) + S`` with d disliked hits of all h hits
            of a user and share S, whose mean is S (linearisation), by the t-test alone.

    Returns:
        One row per metric and peer (index: "metric", "peer"), over the users that have a value of
        both: ``ours``, ``theirs``, the two means; ``improvement``, the difference in % of the
        peer's mean, positive where ours is better, NaN where that is 0; ``users``; ``p_t`` and
        ``p_wilcoxon``; the same with Holm's correction over the table, ``holm_t`` and
        ``holm_wilcoxon``; and ``best``, whether no peer has a better mean in this metric (of equal
        ones the first).

    Raises:
        ValueError: If there is no model ``ours``, no peer, or a model lacks a metric.

    References:
        R. Budylin et al., "Consistent Transformation of Ratio Metrics for Efficient Online
        Controlled Experiments", WSDM 2018.
    """
    if ours not in models:
        raise ValueError(f"there is no model {ours!r}; the models are {', '.join(models)}")
    if len(models) < 2:
        raise ValueError(f"there is no other model to compare {ours!r} with")
    rows, merits = [], []
    for metric in metrics:
        own = _values(models[ours], metric, ours)
        for peer in (name for name in models if name != ours):
            other = _values(models[peer], metric, peer)
            test = paired_test(own, other)
            common = own.dropna().index.intersection(other.dropna().index)
            mean, theirs = float(own[common].mean()), float(other[common].mean())
            sign = -1 if metric in LOWER_IS_BETTER else 1
            merits.append(sign * theirs)
            rows.append(
                {
                    "metric": metric,
                    "peer": peer,
                    "ours": mean,
                    "theirs": theirs,
                    "improvement": sign * 100 * test.difference / abs(theirs) if theirs else np.nan,
                    "users": test.num_users,
                    "p_t": test.p_t,
                    "p_wilcoxon": np.nan if metric == "disliked_share" else test.p_wilcoxon,
                }
            )
    table = pd.DataFrame(rows).set_index(["metric", "peer"])
    for name in ("t", "wilcoxon"):
        table[f"holm_{name}"] = holm(table[f"p_{name}"].to_numpy())
    merit = pd.Series(merits, table.index).dropna()
    table["best"] = table.index.isin(merit.groupby(level="metric").idxmax())
    return table


def over_seeds(summaries: Sequence[Mapping[str, float]]) -> pd.DataFrame:
    """Mean and standard deviation of each figure over runs that differ in their seed.

    Args:
        summaries: `Evaluation.summary` of each run.

    Returns:
        Columns "mean" and "sd" (with divisor n - 1; NaN for a single run), one row per figure.

    Raises:
        ValueError: If there is no run, or the runs have different figures.
    """
    if not summaries:
        raise ValueError("there is no run to take a mean over")
    for number, summary in enumerate(summaries):
        if set(summary) != set(summaries[0]):
            differing = ", ".join(sorted(set(summary) ^ set(summaries[0])))
            raise ValueError(f"run {number} and run 0 differ in their figures: {differing}")
    frame = pd.DataFrame(list(summaries), dtype=np.float64)
    return pd.DataFrame({"mean": frame.mean(skipna=False), "sd": frame.std(skipna=False)})


def mean_over_seeds(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Each user's values, averaged over runs that differ in their seed.

    What is tested then is the model, not one of its runs; and intervals over users do not mistake
    several runs on one user for several users.

    Args:
        runs: ``per_user`` of each run's `Evaluation`, of the same users.

    Returns:
        A frame of the same shape.

    Raises:
        ValueError: If there is no run, or the runs have other users or columns.
    """
    if not runs:
        raise ValueError("there is no run to take a mean over")
    for number, run in enumerate(runs):
        if not (run.index.equals(runs[0].index) and run.columns.equals(runs[0].columns)):
            raise ValueError(f"run {number} has other users or columns than run 0")
    mean = np.mean([run.to_numpy(np.float64) for run in runs], axis=0)
    return pd.DataFrame(mean, index=runs[0].index, columns=runs[0].columns)


def _draws(num_users: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each draw takes each user, float64 ``[draws, U]``, some draws at a time."""
    size = max(1, _CELLS_PER_CHUNK // num_users)
    for start in range(0, resamples, size):
        draws = min(size, resamples - start)
        users = rng.integers(num_users, size=(draws, num_users))
        cells = users + num_users * np.arange(draws)[:, None]
        counts = np.bincount(cells.ravel(), minlength=draws * num_users)
        yield counts.reshape(draws, num_users).astype(np.float64)


def _values(per_user: pd.DataFrame, metric: str, name: str) -> pd.Series:
    """A metric by user, the mean of which is the figure in a summary."""
    if metric == "disliked_share":
        disliked, hits = per_user["hits_dislikes"], per_user["hits_any"]
        if not hits.any():
            return pd.Series(np.nan, per_user.index)
        share = disliked.sum() / hits.sum()
        return (disliked - share * hits) / hits.mean() + share
    if metric not in per_user:
        raise ValueError(f"model {name!r} lacks {metric!r}")
    return per_user[metric]
