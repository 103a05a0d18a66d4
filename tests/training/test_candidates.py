from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.data.sequences import EventSequences
from emorec.settings import LossConfig
from emorec.training.candidates import LARGEST_WHOLE, CandidateSampler, num_drawn
from emorec.training.shares import Share
from emorec.training.softmax import sampled_softmax_loss
from tests.small import small_log

ITEMS = np.array([0, 0, 0, 0, 1, 1, 2, 3])  # of eight events; items 4 and 5 have none
NUM_ITEMS = 6
SHARE = Share.of(
    EventSequences.build(small_log([(0, item, 0, 0) for item in ITEMS], 1, NUM_ITEMS)), NUM_ITEMS
)
DRAWS = 20_000


def draws(size, seed=0):
    sampler = CandidateSampler(SHARE, size)
    rng = np.random.default_rng(seed)
    return sampler, [sampler.draw(rng) for _ in range(DRAWS)]


def test_probabilities_by_hand():
    # One uniform draw and one event: 1 - 5/6 (1 - share).
    expected = [1 - 5 / 12, 1 - 5 / 8, 1 - 35 / 48, 1 - 35 / 48, 1 / 6, 1 / 6]
    sampler = CandidateSampler(SHARE, 2)
    assert np.exp(sampler.log_probability) == pytest.approx(expected)
    # Two uniform draws and one event: 1 - 4/6 (1 - share).
    sampler = CandidateSampler(SHARE, 3)
    assert np.exp(sampler.log_probability)[[0, 5]] == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_items_are_drawn_with_their_probability(size):
    sampler, drawn = draws(size)
    share = np.bincount(np.concatenate(drawn), minlength=NUM_ITEMS) / DRAWS
    assert share == pytest.approx(np.exp(sampler.log_probability), abs=0.015)


def test_candidates_are_distinct_and_at_most_as_many_as_draws():
    for each in draws(4)[1][:100]:
        assert (np.diff(each) > 0).all()
        assert 2 <= len(each) <= 4
        assert 0 <= each[0] and each[-1] < NUM_ITEMS


def test_same_seed_same_draw():
    one, again, other = (draws(3, seed)[1] for seed in (5, 5, 6))
    assert all(map(np.array_equal, one, again))
    assert not all(map(np.array_equal, one, other))


def test_the_sum_over_the_catalogue_is_unbiased():
    scores = np.random.default_rng(3).normal(size=NUM_ITEMS)
    sampler, drawn = draws(3)
    sums = [np.exp(scores[each] - sampler.log_probability[each]).sum() for each in drawn]
    error = np.std(sums) / DRAWS**0.5
    assert abs(np.mean(sums) - np.exp(scores).sum()) < 4 * error < 0.2


def gradient_at(scores, chance, sampler, drawn):
    """The mean gradient of the loss of targets of a given chance, over draws."""
    total = torch.zeros(NUM_ITEMS, dtype=torch.float64)
    offset = -torch.from_numpy(sampler).double()
    for each in drawn:
        own = scores.clone().requires_grad_()
        corrected = own + offset
        log_sum = corrected[torch.from_numpy(each)].logsumexp(0).expand(NUM_ITEMS)
        is_candidate = torch.isin(torch.arange(NUM_ITEMS), torch.from_numpy(each))
        loss = (chance * sampled_softmax_loss(corrected, log_sum, is_candidate)).sum()
        total += torch.autograd.grad(loss, own)[0]
    return total / len(drawn)


def test_the_true_probabilities_are_the_minimum():
    chance = torch.tensor([0.05, 0.3, 0.1, 0.2, 0.3, 0.05], dtype=torch.float64)
    sampler, drawn = draws(3)
    corrected = gradient_at(chance.log(), chance, sampler.log_probability, drawn[:4000])
    assert corrected.abs().max() < 0.01
    # Without the correction, popular items would have to score lower.
    nothing = np.zeros_like(sampler.log_probability)
    plain = gradient_at(chance.log(), chance, nothing, drawn[:4000])
    assert plain[0] > 0.02 and plain[4] < -0.03


def test_the_size_of_the_catalogue_decides():
    assert num_drawn(-1, LARGEST_WHOLE) == 0
    assert num_drawn(-1, LARGEST_WHOLE + 1) == 4096
    assert num_drawn(0, 10**7) == 0
    assert num_drawn(256, 257) == 256
    assert num_drawn(256, 256) == 0  # all items are the whole catalogue
    about = LossConfig.model_fields["negatives"].description
    assert f"up to {LARGEST_WHOLE:,} items, else {num_drawn(-1, 10**9)}" in about
