from __future__ import annotations

import pytest
import torch

from emorec.nn.dropout import Dropout


def dropped(p, shape=(400, 500), seed=0):
    torch.manual_seed(seed)
    return Dropout(p)(torch.ones(shape))


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_the_share_of_zeros_and_the_mean(p):
    y = dropped(p)
    zeros = (y == 0).float().mean().item()
    assert zeros == pytest.approx(round(256 * p) / 256, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert len(y.unique()) == 2


def test_every_place_of_a_draw_is_dropped_alike():
    # Eight neighbours share a 64-bit draw; the sign bit must be as random as the others.
    zeros = (dropped(0.2, (100_000, 8)) == 0).float().mean(0)
    assert zeros.tolist() == pytest.approx([51 / 256] * 8, abs=0.006)


def test_neighbours_are_independent():
    zero = (dropped(0.5, (100_000, 8)) == 0).float()
    correlation = torch.corrcoef(zero.T) - torch.eye(8)
    assert correlation.abs().max() < 0.02


def test_gradient_passes_where_the_value_did():
    torch.manual_seed(0)
    x = torch.randn(7, 5, 3, requires_grad=True)
    y = Dropout(0.4)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())
    assert 0 < (x.grad == 0).sum() < x.numel()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 7)])  # none a multiple of eight
def test_any_shape(shape):
    assert Dropout(0.5)(torch.ones(shape)).shape == shape


def test_of_slices_that_are_not_contiguous():
    torch.manual_seed(0)
    y = Dropout(0.25)(torch.arange(1.0, 13.0).view(3, 4).T)
    kept = y != 0
    expected = torch.arange(1.0, 13.0).view(3, 4).T * (4 / 3)
    torch.testing.assert_close(y[kept], expected[kept])


def test_nothing_happens_in_evaluation_or_with_probability_zero():
    x = torch.randn(4, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_the_generator_decides():
    assert torch.equal(dropped(0.5, seed=1), dropped(0.5, seed=1))
    assert not torch.equal(dropped(0.5, seed=1), dropped(0.5, seed=2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_the_type(dtype):
    assert Dropout(0.3)(torch.ones(9, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_a_probability_that_is_none(p):
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1"):
        Dropout(p)


def test_what_is_printed():
    assert str(Dropout(0.25)) == "Dropout(p=0.25)"
