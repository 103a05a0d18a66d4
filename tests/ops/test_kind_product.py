from __future__ import annotations

import pytest
import torch

from emorec.ops.kind_product import kind_product


def inputs(num_nodes: int = 5, out_size: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (num_nodes, 4), (3, out_size, 4)
    x, weight = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return x.requires_grad_(), weight.requires_grad_()


def test_by_hand():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    weight = torch.tensor([[[1.0, 1.0]], [[10.0, 0.0]]])
    assert kind_product(x, weight, [1, 1]).tolist() == [[3.0], [30.0]]


@pytest.mark.parametrize("sizes", [[2, 0, 3], [5, 0, 0], [0, 0, 0]], ids=str)
def test_equals_the_product_of_each_kind(sizes: list[int]):
    x, weight = inputs(sum(sizes))
    blocks = zip(x.split(sizes), weight, strict=True)
    torch.testing.assert_close(
        kind_product(x, weight, sizes), torch.cat([rows @ w.T for rows, w in blocks])
    )


def test_gradcheck():
    assert torch.autograd.gradcheck(lambda x, w: kind_product(x, w, [2, 0, 3]), inputs())
