from __future__ import annotations

import pytest
import torch

from emorec.ops.rows import take_rows


@pytest.mark.parametrize("shape", [(4,), (2, 2), (1, 4, 1)])
def test_by_hand(device, shape):
    table = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], device=device, requires_grad=True)
    index = torch.tensor([2, 0, 2, 2], device=device).view(shape)
    found = take_rows(table, index)
    assert found.shape == (*shape, 2)
    assert found.flatten().tolist() == [5, 6, 1, 2, 5, 6, 5, 6]
    weight = torch.tensor([1.0, 10.0, 100.0, 1000.0], device=device).view(*shape, 1)
    (found * weight).sum().backward()
    assert table.grad.tolist() == [[10, 10], [0, 0], [1101, 1101]]


def test_of_nothing(device):
    table = torch.ones(3, 2, device=device, requires_grad=True)
    found = take_rows(table, torch.zeros(0, 5, dtype=torch.long, device=device))
    assert found.shape == (0, 5, 2)
    found.sum().backward()
    assert table.grad.tolist() == [[0, 0]] * 3


def test_the_gradient_is_the_same_with_any_number_of_threads(device):
    torch.manual_seed(0)
    index = torch.randint(0, 33, (20_000,), device=device)
    upstream = torch.randn(20_000, 64, device=device)
    table = torch.randn(33, 64, device=device, requires_grad=True)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 3):
            torch.set_num_threads(number)
            (grad,) = torch.autograd.grad(take_rows(table, index), table, upstream)
            found.append(grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, found[0]) for each in found)
    exact = torch.zeros(33, 64, dtype=torch.float64, device=device)
    exact.index_add_(0, index, upstream.double())
    torch.testing.assert_close(found[0].double(), exact, rtol=1e-4, atol=1e-3)
