"""A device that is not the CPU, for tests on machines that have no other.

Its arrays live in the CPU's memory, where every operator runs, but an operator that is given arrays
of both devices fails as it would with a GPU. What goes from one device to the other is counted. It
is registered with PyTorch for the whole process, so tests use it in a process of their own.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _python_dispatch as dispatch
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

__all__ = ["NAME", "OtherDevice"]

NAME = "other"
aten = torch.ops.aten
# A GPU takes indices that are on the CPU, and copies them.
TAKE_INDICES = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
COPIES = {aten._to_copy.default, aten.copy_.default}
# Of what PyTorch runs in low precision and in float32 under autocast on a GPU, what models use.
LOW_PRECISION = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear")
FULL_PRECISION = (
    "exp",
    "log",
    "log1p",
    "cumsum",
    "sum",
    "sum.dim_IntList",
    "layer_norm",
    "softmax.int",
    "log_softmax.int",
    "logsumexp",
    "binary_cross_entropy_with_logits",
)


KEY = torch._C.DispatchKey.AutocastPrivateUse1
LOW_OR_FULL = (torch.bfloat16, torch.float32)


# An older PyTorch has none; test_other_device.py is skipped there.
_Module: Any = getattr(backend_registration, "_DummyBackendModule", object)


class Backend(_Module):
    """What PyTorch asks the module of a device for."""

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class OtherTensor(torch.Tensor):
    """An array of the other device; ``held`` is the array that has its values."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def of(held: torch.Tensor) -> OtherTensor:
        with torch.inference_mode(False):
            tensor = torch.Tensor._make_wrapper_subclass(
                OtherTensor,
                held.shape,
                strides=held.stride(),
                storage_offset=held.storage_offset(),
                dtype=held.dtype,
                device=torch.device(NAME, 0),
            )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(
        cls, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{operator} outside of an OtherDevice")

    def tolist(self) -> Any:
        OtherDevice.current.count("read")
        return self.held.tolist()


class OtherDevice(dispatch.TorchDispatchMode):
    """While it is entered, the device is there.

    Args:
        within: Name of the function in which copies are counted.

    Attributes:
        copies: How often an array went to the device ("to"), came from it ("from") or had to be
            there to be read as Python numbers ("read").
    """

    current: OtherDevice

    def __init__(self, within: str) -> None:
        super().__init__()
        self.within = within
        self.copies: Counter[str] = Counter()
        OtherDevice.current = self

    def count(self, what: str) -> None:
        callers = traceback.walk_stack(None)
        if any(frame.f_code.co_name == self.within for frame, _ in callers):
            self.copies[what] += 1

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        known: dict[int, OtherTensor] = {}
        others: list[OtherTensor] = []
        here: list[torch.Tensor] = []

        def held(value: Any) -> Any:
            if isinstance(value, OtherTensor):
                others.append(value)
                known[id(value.held)] = value
                return value.held
            if isinstance(value, torch.Tensor) and value.dim():  # scalars are taken anywhere
                here.append(value)
            return value

        plain_args, plain_kwargs = tree_map(held, args), tree_map(held, kwargs)
        goes_there = bool(others)
        if operator is aten.copy_.default:
            goes_there = isinstance(args[0], OtherTensor)
        elif kwargs.get("device") is not None:
            goes_there = torch.device(kwargs["device"]).type == NAME
            plain_kwargs["device"] = torch.device("cpu")
        if operator in COPIES:
            if goes_there and here:
                self.count("to")
            elif others and not goes_there:
                self.count("from")
        elif others and here:
            if operator not in TAKE_INDICES or not isinstance(args[0], OtherTensor):
                shapes = [(list(each.shape), each.device.type) for each in (*others, *here)]
                raise RuntimeError(f"{operator} was given arrays of two devices: {shapes}")
            self.count("to")
        elif others and operator is aten._local_scalar_dense.default:
            self.count("read")
        found = operator(*plain_args, **plain_kwargs)

        def there(value: Any) -> Any:
            if isinstance(value, torch.Tensor) and not isinstance(value, OtherTensor):
                return known[id(value)] if id(value) in known else OtherTensor.of(value)
            return value

        return tree_map(there, found) if goes_there else found


def register() -> list[torch.library.Library]:
    """Makes the device known to PyTorch, once per process; the result has to be kept."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, KEY.name)
    named = torch.library.Library("aten", "IMPL")
    for names, dtype in ((LOW_PRECISION, torch.bfloat16), (FULL_PRECISION, torch.float32)):
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(aten, packet), overload or "default")
            named.impl(name, in_precision(operator, dtype), KEY.name)
    return [others, named]


def in_precision(operator: Any, dtype: torch.dtype) -> Callable[..., Any]:
    """The operator on floats of another precision."""

    def cast(value: Any) -> Any:
        is_other = isinstance(value, torch.Tensor) and value.device.type == NAME
        return value.to(dtype) if is_other and value.dtype in LOW_OR_FULL else value

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(KEY)):
            return operator(*tree_map(cast, args), **tree_map(cast, kwargs))

    return run
