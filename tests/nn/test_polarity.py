from __future__ import annotations

import math

import pytest
import torch

from emorec.nn.polarity import ItemPolarity, NextPolarity


def test_next_polarity_is_linear_in_the_state_whatever_the_items():
    head, state = NextPolarity(3), torch.randn(5, 3)
    expected = state @ head.project.weight[0] + head.project.bias
    for items in (torch.zeros(5, 2, dtype=torch.int64), torch.full((5, 4), 7)):
        torch.testing.assert_close(head(state, items), expected[:, None])


def test_item_polarity_by_hand():
    head = ItemPolarity(num_items=2, size=1, rank=1)
    with torch.no_grad():
        head.taste[0].weight.fill_(1)
        head.taste[0].bias.fill_(0)
        head.taste[2].weight.copy_(torch.tensor([[0.5], [2.0]]))  # level, taste
        head.taste[2].bias.copy_(torch.tensor([0.25, 0.0]))
        head.item.weight.copy_(torch.tensor([[1.0, 3.0], [-1.0, -2.0]]))  # level, vector
    # State 2: level 1.25, taste 4. State -2 is cut to 0: level .25, taste 0.
    found = head(torch.tensor([[2.0], [-2.0]]), torch.tensor([[0, 1], [1, 1]]))
    assert found.tolist() == [[4 * 3 + 1.25 + 1, 4 * -2 + 1.25 - 1], [0.25 - 1, 0.25 - 1]]


def test_log_probability_of_all_items_is_that_of_each():
    torch.manual_seed(0)
    head, state = ItemPolarity(num_items=6, size=4), 5 * torch.randn(3, 4)
    logit = head(state, torch.arange(6).expand(3, -1))
    torch.testing.assert_close(head.log_probability(state), logit.sigmoid().log())


def test_before_training_items_hardly_differ():
    torch.manual_seed(0)
    log_probability = ItemPolarity(50, 16).log_probability(torch.randn(20, 16))
    assert log_probability.mean().item() == pytest.approx(math.log(0.5), abs=0.2)
    assert log_probability.std(1).max() < 0.1
