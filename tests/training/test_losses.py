from __future__ import annotations

import math

import pytest
import torch

from emorec.training.losses import bpr_loss, polarity_loss

INF = math.inf


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
