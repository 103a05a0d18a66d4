import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emorec.evaluation import metrics

METRICS = [getattr(metrics, name) for name in metrics.__all__]


def value(metric, hits, num_relevant):
    result = metric(torch.tensor([hits], dtype=torch.bool), torch.tensor([num_relevant]))
    assert result.dtype == torch.float64
    assert result.shape == (1,)
    return result.item()


# Ranks 1 and 3 of a list of 4 hit; 5 items are relevant. The ideal gain of 4 hits is
# 1 + 1/log2(3) + 1/2 + 1/log2(5) = 1 + 0.63093 + 0.5 + 0.43068 = 2.56161.
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (metrics.recall, 2 / 5),
        (metrics.precision, 2 / 4),
        (metrics.hit_rate, 1.0),
        (metrics.reciprocal_rank, 1.0),
        (metrics.average_precision, (1 / 1 + 2 / 3) / 5),
        (metrics.ndcg, (1 + 0.5) / 2.5616063),
    ],
)
def test_hits_at_ranks_1_and_3(metric, expected):
    assert value(metric, [1, 0, 1, 0], 5) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (metrics.recall, 1.0),
        (metrics.precision, 1 / 3),
        (metrics.hit_rate, 1.0),
        (metrics.reciprocal_rank, 1 / 3),
        (metrics.average_precision, 1 / 3),
        (metrics.ndcg, 0.5 / (1 + 1 / math.log2(3) + 0.5)),
    ],
)
def test_one_relevant_item_at_the_last_rank(metric, expected):
    assert value(metric, [0, 0, 1], 1) == pytest.approx(expected, rel=1e-12)


def test_the_ideal_list_always_has_k_hits():
    # One relevant item at rank 1 of 10: 1 / (1 + 1/log2 3 + ... + 1/log2 11) = 1 / 4.543559.
    assert value(metrics.ndcg, [1] + [0] * 9, 1) == pytest.approx(0.2200918, abs=1e-7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 2, 10, 63])
def test_a_full_list_scores_exactly_one(metric, k):
    assert value(metric, [1] * k, k) == 1.0


@pytest.mark.parametrize("metric", METRICS)
def test_rounding_never_lifts_a_full_list_above_one(metric):
    for k in range(1, 80):
        hits = torch.ones(k, 3, dtype=torch.bool).T  # of this layout, sums add up in another order
        values = metric(hits, torch.tensor([k] * 3))
        assert values.max() <= 1
        assert values.tolist() == pytest.approx([1] * 3, rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_no_hit_is_zero(metric):
    assert value(metric, [0, 0, 0], 2) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_no_relevant_item_is_nan(metric):
    result = metric(torch.tensor([[False, False], [True, False]]), torch.tensor([0, 1]))
    assert math.isnan(result[0])
    assert not math.isnan(result[1])


@pytest.mark.parametrize("metric", METRICS)
def test_no_users(metric):
    result = metric(torch.zeros(0, 3, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    assert result.shape == (0,)


@pytest.mark.parametrize(
    ("hits", "num_relevant", "message"),
    [
        (torch.ones(2, 3), torch.ones(2, dtype=torch.int64), r"bool \[U, k\].*float32 \[2, 3\]"),
        (torch.ones(3, dtype=torch.bool), torch.tensor([1, 1, 1]), r"bool \[U, k\]"),
        (torch.ones(2, 0, dtype=torch.bool), torch.tensor([1, 1]), "k >= 1"),
        (torch.ones(2, 3, dtype=torch.bool), torch.tensor([3]), r"\[U\] = \[2\], got \[1\]"),
        (torch.ones(1, 3, dtype=torch.bool), torch.tensor([3.0]), "integer, got torch.float32"),
        (torch.ones(2, 3, dtype=torch.bool), torch.tensor([3, 2]), "row 1: 3 hits but 2 relevant"),
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_wrong_input_is_refused(metric, hits, num_relevant, message):
    with pytest.raises(ValueError, match=message):
        metric(hits, num_relevant)


def oracle(name, hits, num_relevant):
    ranks = [r for r, hit in enumerate(hits, 1) if hit]
    gain = sum(1 / np.log2(1 + r) for r in ranks)
    return {
        "recall": len(ranks) / num_relevant,
        "precision": len(ranks) / len(hits),
        "hit_rate": float(bool(ranks)),
        "reciprocal_rank": 1 / ranks[0] if ranks else 0.0,
        "average_precision": sum(n / r for n, r in enumerate(ranks, 1)) / num_relevant,
        "ndcg": gain / sum(1 / np.log2(1 + r) for r in range(1, len(hits) + 1)),
    }[name]


def hit_tables(k):
    return st.lists(st.lists(st.booleans(), min_size=k, max_size=k), min_size=1, max_size=6)


@given(st.integers(1, 12).flatmap(hit_tables), st.integers(0, 20))
def test_against_the_oracle(rows, unlisted):
    hits = torch.tensor(rows)
    num_relevant = hits.sum(dim=1) + unlisted
    for metric in METRICS:
        values = metric(hits, num_relevant)
        for row, count, got in zip(rows, num_relevant.tolist(), values.tolist(), strict=True):
            if count == 0:
                assert math.isnan(got)
            else:
                assert got == pytest.approx(oracle(metric.__name__, row, count), abs=1e-12)
                assert 0 <= got <= 1


@given(st.lists(st.booleans(), min_size=2, max_size=12), st.data())
def test_a_hit_moved_up_never_lowers_a_metric(row, data):
    place = data.draw(st.integers(0, len(row) - 2))
    if not row[place] and row[place + 1]:
        better = row.copy()
        better[place], better[place + 1] = True, False
        for metric in METRICS:
            assert value(metric, better, sum(row)) >= value(metric, row, sum(row))
