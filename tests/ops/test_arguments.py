from __future__ import annotations

import pytest
import torch

from emorec.ops.arguments import check_arguments

T, H = 3, 2  # what is checked of tensors alone is tested with the operator


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("window", torch.ones(3), r"^window must be a number or \[2\], got \[3\]$"),
        ("dropout", 1.0, r"^dropout must be in \[0, 1\), got 1.0$"),
        ("dropout", -0.1, r"^dropout must be in \[0, 1\), got -0.1$"),
    ],
)
def test_options(option, value, message):
    tensors = (
        torch.zeros(T, 4),
        None,
        torch.zeros(T, H, 4),
        torch.arange(T),
        torch.arange(T),
        torch.tensor([0, T]),
        torch.ones(H),
    )
    options = {"window": 1.0, "decay": "additive", "dropout": 0.0}
    check_arguments(*tensors, **options)
    check_arguments(*tensors, **options | {"window": torch.ones(H)})
    with pytest.raises(ValueError, match=message):
        check_arguments(*tensors, **options | {option: value})
