from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from emorec import losses
from emorec.losses import bpr_loss, polarity_loss, softmax_loss

INF = math.inf


def inputs(num_states=7, num_items=5, size=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(num_states, size, generator=generator, dtype=dtype, requires_grad=True)
    items = torch.randn(num_items, size, generator=generator, dtype=dtype, requires_grad=True)
    return state, items, torch.randint(num_items, (num_states,), generator=generator)


def next_item_loss(state, items, target):
    """One target per state."""
    return softmax_loss(state, items, target[:, None], torch.ones(len(target), 1, dtype=torch.bool))


class TestSoftmax:
    def test_by_hand(self):
        # Scores log 3 and 0: the target's probability is 3/4, then 1/4.
        state, items = torch.tensor([[1.0]]), torch.tensor([[math.log(3)], [0.0]])
        assert next_item_loss(state, items, torch.tensor([0])).item() == pytest.approx(
            math.log(4 / 3)
        )
        assert next_item_loss(state, items, torch.tensor([1])).item() == pytest.approx(math.log(4))

    # Chunks of 1, of 2 with a rest, of 3, all at once; 5 scores are a row.
    @pytest.mark.parametrize("chunk_scores", [1, 10, 15, 10**6])
    @pytest.mark.parametrize("factor", [1.0, -2.5])
    def test_equals_torch(self, monkeypatch, chunk_scores, factor):
        monkeypatch.setattr(losses, "_CHUNK_SCORES", chunk_scores)
        state, items, target = inputs()
        ours = factor * next_item_loss(state, items, target)
        theirs = factor * F.cross_entropy(state @ items.T, target)
        torch.testing.assert_close(ours, theirs)
        gradients = (torch.autograd.grad(loss, (state, items)) for loss in (ours, theirs))
        torch.testing.assert_close(*gradients)

    @pytest.mark.parametrize("chunk_scores", [10, 10**6])
    def test_gradcheck(self, monkeypatch, chunk_scores):
        monkeypatch.setattr(losses, "_CHUNK_SCORES", chunk_scores)
        state, items, target = inputs()
        assert torch.autograd.gradcheck(lambda x, v: next_item_loss(x, v, target), (state, items))

    def test_one_state_one_item(self):
        state, items, target = inputs(num_states=1, num_items=1)
        loss = next_item_loss(state, items, target)
        assert loss.item() == pytest.approx(0)
        assert all(g.abs().sum() == 0 for g in torch.autograd.grad(loss, (state, items)))

    def test_large_scores_stay_finite(self):
        state = torch.tensor([[300.0], [-300.0]], requires_grad=True)
        items = torch.tensor([[1.0], [-1.0]], requires_grad=True)
        loss = next_item_loss(state, items, torch.tensor([0, 0]))
        assert loss.item() == pytest.approx(300)  # 0 and 600, averaged
        for gradient in torch.autograd.grad(loss, (state, items)):
            assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("chunk_scores", [1, 10, 10**6])
    def test_several_targets_count_like_as_many_states(self, monkeypatch, chunk_scores):
        monkeypatch.setattr(losses, "_CHUNK_SCORES", chunk_scores)
        state, items, _ = inputs(num_states=3)
        target = torch.tensor([[0, 4, 4], [2, 1, 0], [3, 3, 3]])  # a target may come twice
        wanted = torch.tensor([[True, True, True], [False, True, False], [True, False, True]])
        ours = softmax_loss(state, items, target, wanted)
        row = torch.tensor([0, 0, 0, 1, 2, 2])
        theirs = next_item_loss(state[row], items, target[wanted])
        torch.testing.assert_close(ours, theirs)
        gradients = (torch.autograd.grad(loss, (state, items)) for loss in (ours, theirs))
        torch.testing.assert_close(*gradients)

    def test_equal_scores(self):
        state, items = torch.zeros(2, 3), torch.ones(8, 3)
        assert next_item_loss(state, items, torch.tensor([0, 5])).item() == pytest.approx(
            math.log(8)
        )


class TestBPR:
    def test_by_hand(self):
        loss = bpr_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([[0.0, 0.0], [0.0, 99.0]]))
        # -log sigmoid(log 3) = log 4/3; -log sigmoid(log 3 - 99) = 99 - log 3 + tiny
        assert loss.tolist() == pytest.approx(
            [math.log(2), (math.log(4 / 3) + 99 - math.log(3)) / 2]
        )

    def test_a_sample_left_out_costs_nothing_and_moves_nothing(self):
        target = torch.tensor([0.3], requires_grad=True)
        others = torch.tensor([[-INF]], requires_grad=True)
        loss = bpr_loss(target, others)
        assert loss.item() == 0
        assert [g.item() for g in torch.autograd.grad(loss, (target, others))] == [0, 0]

    def test_gradcheck(self):
        target = torch.randn(4, dtype=torch.float64, requires_grad=True)
        others = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(bpr_loss, (target, others))

    def test_gradient_raises_the_target(self):
        target = torch.zeros(1, requires_grad=True)
        others = torch.zeros(1, 1, requires_grad=True)
        gradients = torch.autograd.grad(bpr_loss(target, others), (target, others))
        assert [g.item() for g in gradients] == [-0.5, 0.5]


class TestPolarity:
    def test_by_hand(self):
        logit = torch.tensor([[0.0, math.log(3)], [math.log(3), math.log(3)]])
        loss = polarity_loss(logit, torch.tensor([[1, 1], [0, 1]]))
        expected = [math.log(2) + math.log(4 / 3), math.log(4) + math.log(4 / 3)]
        assert loss.tolist() == pytest.approx(expected)

    def test_takes_booleans_and_large_logits(self):
        loss = polarity_loss(torch.tensor([[1000.0], [1000.0]]), torch.tensor([[True], [False]]))
        assert loss.tolist() == [0, 1000]
