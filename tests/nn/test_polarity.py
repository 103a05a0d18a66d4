from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from emorec.data.feedback import Feedback
from emorec.data.sequences import EventSequences
from emorec.nn.polarity import ItemPolarity, NextPolarity
from tests.small import random_events, small_log

EVENTS = random_events(num_users=7, num_items=9)
BATCH = EVENTS.inference_batch(np.arange(7), 20)  # the last user has no event


def randomised(head):
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in head.state_dict().values():
            tensor.normal_()
    return head


def test_next_polarity_is_linear_in_the_state_whatever_the_items():
    head, state = NextPolarity(3), torch.randn(len(BATCH.item), 3)
    assert head.taste(state, None, BATCH) is state
    expected = state @ head.project.weight[0] + head.project.bias
    for items in (torch.zeros(len(state), 2, dtype=torch.int64), torch.full((len(state), 4), 7)):
        logits = head.logits(state, items)
        assert logits.shape == (*items.shape, 1)
        torch.testing.assert_close(logits[..., 0], expected[:, None].expand(items.shape))
    assert head.levels == (Feedback.IMPLICIT_POSITIVE,)


def test_item_polarity_by_hand():
    log = small_log([(0, 0, 0, 10), (0, 1, 3, 20)], num_users=1, num_items=2)  # loved, rejected
    batch = EventSequences.build(log).inference_batch(np.array([0]), 5)
    head = ItemPolarity(num_items=2, size=1, rank=1)
    with torch.no_grad():
        head.item.weight.copy_(torch.tensor([[0.5, 1.0], [0.25, -2.0]]))  # b, q
        head.reaction.weight.copy_(torch.tensor([[2.0], [3.0]]))
        head.presence.weight.copy_(torch.tensor([[0.1], [0.2]]))
        head.weight.copy_(torch.tensor([1.0, 0.0, 0.0, -2.0]))  # w: 0.5, 0, 0, -1
        head.prior_scale.fill_(8.0)
        head.mean_scale.fill_(4.0)
        head.threshold.copy_(torch.tensor([1.0, 0.0, -1.0]))
        head.project.weight.fill_(10.0)
    head.fit(log)
    vector = torch.tensor([[0.0], [0.0], [0.5]])
    r = [0.0, 0.5 / 6, -0.5 / 7]
    after_first = (0.5 - 0.5 / 6) * 2 + 0.1
    after_both = after_first + (-1 + 0.5 / 7) * 3 + 0.2
    p = [0.0, after_first / math.sqrt(11), after_both / math.sqrt(12) + 10.0]  # of a unit vector
    taste = head.taste(None, vector, batch)
    np.testing.assert_allclose(
        taste.detach(), [[4 * r_n, p_n] for r_n, p_n in zip(r, p, strict=True)], rtol=1e-6
    )
    m = 0.5 * (0 + 10 * 0.5) / 11 - (1 + 10 * 0.5) / 11 + 0.25  # half the log rejects, as item 1's
    score = 8 * m + 0.25 + 4 * r[2] - 2 * p[2]  # of item 1 after both events
    logits = head.logits(taste[2:], torch.tensor([[1]]))
    np.testing.assert_allclose(logits.detach()[0, 0], [score - 1, score, score + 1], rtol=1e-5)
    assert head.levels == (0, 1, 2)


def test_what_others_made_of_an_item_is_counted_against_the_log():
    rows = [(user, 0, 0, 0) for user in range(3)] + [(0, 1, 2, 1), (1, 1, 3, 1)]
    head = ItemPolarity(num_items=3, size=1)
    head.fit(small_log(rows, num_users=3, num_items=3))
    share = np.array([3, 0, 1, 1]) / 5
    expected = [
        (np.array([3, 0, 0, 0]) + 10 * share) / 13 - share,
        (np.array([0, 0, 1, 1]) + 10 * share) / 12 - share,
        np.zeros(4),  # of an item without events nothing is known
    ]
    np.testing.assert_allclose(head.prior, expected, atol=1e-7)
    score = head.log_probability(torch.zeros(1, 17))[0]
    assert score[0] > score[2] > score[1]


def test_an_event_that_teaches_is_left_out_of_its_items_counts():
    rows = [(user, 0, 0, 0) for user in range(3)] + [(0, 1, 2, 1), (1, 1, 3, 1), (2, 2, 3, 1)]
    head = ItemPolarity(num_items=3, size=1)
    head.fit(small_log(rows, num_users=3, num_items=3))
    share = np.array([3, 0, 1, 2]) / 6
    others = [([2, 0, 0, 0], 2), ([0, 0, 0, 1], 1), ([0, 0, 1, 0], 1), ([0, 0, 0, 0], 0)]
    m = [(np.array(kinds) + 10 * share) / (n + 10) - share for kinds, n in others]
    items, feedback = torch.tensor([[0, 1, 1, 2]]), torch.tensor([[0, 2, 3, 3]])
    logits = head.logits(torch.zeros(1, 17), items, feedback)[0, :, 1]
    score = np.array(m) @ [1.0, 0.3, -0.3, -1.0] * 1.5
    expected = score + head.item.weight[items[0], 0].detach().numpy() + 0.7
    np.testing.assert_allclose(logits.detach(), expected, atol=1e-6)


def test_the_weights_of_kinds_have_no_scale():
    head = randomised(ItemPolarity(9, 4))
    items = torch.arange(9).expand(len(BATCH.item), -1)
    before = head.logits(head.taste(None, None, BATCH), items)
    with torch.no_grad():
        head.weight.mul_(7)
    torch.testing.assert_close(head.logits(head.taste(None, None, BATCH), items), before)


def test_taste_is_blind_to_what_comes_later_and_to_others():
    head = randomised(ItemPolarity(9, 4))
    taste = head.taste(None, None, BATCH)
    for row, user in enumerate(range(7)):
        length = int(EVENTS.lengths[user])
        for known in range(length + 1):
            start = int(EVENTS.offsets[user])
            events = slice(start, start + known)
            alone = EventSequences(
                np.array([0, known]),
                EVENTS.item[events],
                EVENTS.feedback[events],
                EVENTS.time[events],
                EVENTS.ticks_per_day,
            ).inference_batch(np.array([0]), 20)
            expected = head.taste(None, None, alone)[-1]
            found = taste[int(BATCH.cu_seqlens[row]) + known]
            torch.testing.assert_close(found, expected)


def test_a_user_without_events_has_a_neutral_taste():
    taste = randomised(ItemPolarity(9, 4)).taste(None, None, BATCH)
    assert torch.equal(taste[BATCH.last[-1]], torch.zeros(taste.shape[1]))


def test_log_probability_of_all_items_is_that_of_each():
    head = randomised(ItemPolarity(num_items=9, size=4))
    taste = head.taste(None, torch.randn(len(BATCH.item), 4), BATCH)
    logit = head.logits(taste, torch.arange(9).expand(len(taste), -1))
    positive = head.levels.index(Feedback.IMPLICIT_POSITIVE)
    torch.testing.assert_close(head.log_probability(taste), logit[..., positive].sigmoid().log())


def test_before_training_items_hardly_differ():
    torch.manual_seed(0)
    head = ItemPolarity(9, 4)
    log_probability = head.log_probability(head.taste(None, None, BATCH))
    assert log_probability.std(1).max() < 0.1


@pytest.mark.parametrize("known", [None, torch.randn(len(BATCH.item), 4)])
def test_every_parameter_that_is_used_gets_a_gradient(known):
    head = randomised(ItemPolarity(9, 4))
    head.logits(
        head.taste(None, known, BATCH), BATCH.item.clamp(min=0)[:, None]
    ).square().sum().backward()
    for name, parameter in head.named_parameters():
        used = known is not None or not name.startswith("project")
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) is used, name


def test_tables_are_all_that_has_a_row_per_item_or_per_dimension_of_the_taste():
    head = ItemPolarity(9, 4)
    assert [table.shape for table in head.tables()] == [(9, 17), (9, 16), (9, 16), (16, 4)]
    of_tables = {id(table) for table in head.tables()}
    assert of_tables == {id(each) for each in head.parameters() if each.ndim == 2}
