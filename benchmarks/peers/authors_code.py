"""What the runners of authors' code share: finding it, and keeping it off a graphics card."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["OnCpu", "import_from"]


def import_from(folder: str, *below: str) -> None:
    """Lets ``import`` find the modules of a checkout, before any others of the same name."""
    sys.path[:0] = ["/".join([folder, *below])]


class OnCpu(TorchFunctionMode):
    """Code that names a CUDA device makes its tensors on the CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls ``func`` with the device replaced."""
        kwargs = dict(kwargs or {})
        if "cuda" in str(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
        return func(*args, **kwargs)
