from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.building import build_model
from emorec.config import LossConfig
from emorec.data.sequences import EventSequences
from emorec.training.batches import training_batches
from emorec.training.candidates import LARGEST_WHOLE, draw_candidates, num_drawn
from emorec.training.losses import Objective
from emorec.training.sampling import ItemSampler
from tests.small import random_events, small_config

NUM_ITEMS = 20
DRAWS = 4000


def test_the_targets_stand_for_themselves_and_the_drawn_for_all_others():
    drawn = draw_candidates(np.array([7, 2, 7]), 10, 4, np.random.default_rng(0))
    assert drawn.item[:2].tolist() == [2, 7]
    assert drawn.item[drawn.place].tolist() == [7, 2, 7]
    assert len(set(drawn.item.tolist())) == 6  # 2 targets and 4 of the 8 others
    assert drawn.log_weight[:2].tolist() == [0, 0]
    assert np.exp(drawn.log_weight[2:]) == pytest.approx([2, 2, 2, 2])  # 8 / 4


@pytest.mark.parametrize("target", [[0, 1], [3, 5], [8, 9], [0, 9]])
def test_every_other_item_is_drawn_equally_often(target):
    rng = np.random.default_rng(1)
    draws = [draw_candidates(np.array(target), 10, 3, rng).item for _ in range(DRAWS)]
    share = np.bincount(np.concatenate(draws), minlength=10) / DRAWS
    expected = np.full(10, 3 / 8)
    expected[target] = 1
    assert share == pytest.approx(expected, abs=0.03)  # four standard deviations
    assert share[target].tolist() == [1, 1]


def test_all_items_are_candidates_where_there_are_no_more():
    drawn = draw_candidates(np.array([1, 4]), 5, 100, np.random.default_rng(0))
    assert sorted(drawn.item.tolist()) == [0, 1, 2, 3, 4]
    assert drawn.log_weight.tolist() == [0, 0, 0, 0, 0]
    all_targets = draw_candidates(np.array([1, 0]), 2, 3, np.random.default_rng(0))
    assert all_targets.item.tolist() == [0, 1]


def test_the_size_of_the_catalogue_decides():
    assert num_drawn(-1, LARGEST_WHOLE) == 0
    assert num_drawn(-1, LARGEST_WHOLE + 1) == 4096
    assert num_drawn(0, 10**7) == 0
    assert num_drawn(256, 10) == 256
    about = LossConfig.model_fields["negatives"].description
    assert f"up to {LARGEST_WHOLE:,} items, else {num_drawn(-1, 10**9)}" in about


def objective(model, negatives):
    """The loss of a batch as a function of the seed of its draw, and the batch."""
    events = random_events(num_items=NUM_ITEMS)
    sampler = ItemSampler(events, np.arange(NUM_ITEMS), NUM_ITEMS)
    options = LossConfig(ranking="softmax", targets="any", negatives=negatives)
    loss = Objective(model, options, sampler)
    batch = next(training_batches(first_users(events, 1), None, 20, 2, np.random.default_rng(0)))
    return lambda seed: loss(batch, np.random.default_rng(seed))


def first_users(events: EventSequences, count: int) -> EventSequences:
    return events.select(np.repeat(np.arange(events.num_users), events.lengths) < count)


@pytest.fixture
def model():
    config = small_config("graph.conv=none", "graph.signed=false", "model.aversion=0",
                          "model.polarity=none", "sequence.dropout=0")  # fmt: skip
    made = build_model(config, 7, NUM_ITEMS)
    torch.nn.init.normal_(made.item_embedding.weight, std=0.5)
    return made


def gradients(model, loss):
    return torch.autograd.grad(loss, [model.item_embedding.weight])[0]


def test_exact_where_all_items_are_candidates(model):
    whole = objective(model, 0)(0)
    drawn = objective(model, NUM_ITEMS)(0)
    assert drawn.item() == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(gradients(model, drawn), gradients(model, whole))


def test_the_sum_over_the_catalogue_is_unbiased(model):
    torch.manual_seed(3)
    scores = torch.randn(NUM_ITEMS, dtype=torch.float64)
    rng = np.random.default_rng(2)
    sums = []
    for _ in range(DRAWS):
        drawn = draw_candidates(np.array([1, 1, 4]), NUM_ITEMS, 2, rng)
        terms = scores[drawn.item] + torch.from_numpy(drawn.log_weight)
        sums.append(terms.exp().sum().item())
    error = np.std(sums) / DRAWS**0.5
    assert error > 0
    assert abs(np.mean(sums) - scores.exp().sum().item()) < 4 * error


def test_loss_and_gradient_approach_those_of_the_whole_catalogue(model):
    whole = objective(model, 0)(0)
    expected = gradients(model, whole)
    means, errors = [], []
    for negatives in (1, 4, 12):
        sampled = objective(model, negatives)
        losses = [sampled(seed) for seed in range(300)]
        mean = torch.stack([gradients(model, loss) for loss in losses]).mean(0)
        errors.append(((mean - expected).norm() / expected.norm()).item())
        means.append(np.mean([loss.item() for loss in losses]))
    # The logarithm of an unbiased sum is too low, by less and less.
    assert means[0] < means[1] < means[2] < whole.item()
    assert means[2] == pytest.approx(whole.item(), abs=0.02)
    assert 0.5 > errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.05


def test_same_seed_same_draw(model):
    loss = objective(model, 2)
    assert loss(5).item() == loss(5).item()
    assert len({loss(seed).item() for seed in range(5)}) > 1
