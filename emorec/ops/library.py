"""The compiled library: where it is, whether it loads, and whether an operator runs in it.

`setup.py` builds it ahead of time into the package, ``emorec doctor --build`` just in time into a
cache folder. CUDA kernels are a library of their own, loaded only by a PyTorch that has CUDA.
"""

from __future__ import annotations

import functools
import importlib.machinery
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from emorec.ops import build, registration

__all__ = ["Backend", "load", "problem", "runs_fused", "runs_fused_on_cpu", "warn_once"]

logger = logging.getLogger("emorec")

Backend = Literal["auto", "reference", "fused"]
Function = TypeVar("Function", bound=Callable[..., Any])

REMEDY = "`emorec doctor --build` compiles it, `emorec doctor` lists what is missing"
REBUILD = "`make build` rebuilds it"


@functools.cache
def load() -> dict[str, str]:
    """Loads the libraries that were built, once per process.

    Returns:
        Why the kernels of "cpu" and "cuda" cannot run; no entry for those that can.
    """
    problems = {}
    for device, name in build.LIBRARIES.items():
        if device == "cuda" and torch.version.cuda is None:
            problems[device] = "this PyTorch has no CUDA"
        elif "cpu" in problems:  # holds the schemas
            problems[device] = problems["cpu"]
        elif (old := build.too_old()) is not None:
            problems[device] = old
        elif (path := find(name)) is None:
            problems[device] = f"the compiled operators for {device} are not built; {REMEDY}"
        else:
            try:
                torch.ops.load_library(str(path))
            except OSError as error:
                reason = str(error).splitlines()[0]
                problems[device] = f"{path} does not load ({reason}); {REMEDY}"
                continue
            if device == "cpu" and (lack := _unregistered()) is not None:
                problems[device] = f"{path} is not of these sources ({lack}); {REBUILD}"
    return problems


def _unregistered() -> str | None:
    """Registers shapes and gradients; returns the reason if the library lacks an operator."""
    try:
        registration.register()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def find(name: str) -> Path | None:
    """The library's file, ahead-of-time build first."""
    package = Path(__file__).parents[1]
    for folder in (package, build.cache_folder()):
        for suffix in importlib.machinery.EXTENSION_SUFFIXES:
            if (path := folder / f"{name}{suffix}").is_file():
                return path
    return None


def _constant(function: Function) -> Function:
    """`torch.compiler.assume_constant_result`, which imports TorchDynamo: a third of our start."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant
def problem(device: str) -> str | None:
    """Why the fused kernels cannot run on a kind of device; None if they can."""
    return load().get(device) if device in build.LIBRARIES else f"no fused kernels for {device}"


@_constant
@functools.cache
def warn_once(reason: str) -> None:
    """Logs, once per process and reason, that the reference runs."""
    logger.warning("The slower PyTorch reference runs: %s", reason)


def runs_fused(backend: Backend, device: str, unsupported: str | None = None) -> bool:
    """Whether the compiled operator runs; if not, the reference does, and "auto" logs why.

    Args:
        backend: "auto", "reference" or "fused".
        device: Kind of device of the arguments.
        unsupported: Why the operator does not take the arguments; None if it does.

    Raises:
        ValueError: If there is no such backend.
        RuntimeError: If "fused" is requested but not available.
    """
    if backend not in ("auto", "reference", "fused"):
        raise ValueError(f"backend must be 'auto', 'reference' or 'fused', got {backend!r}")
    if backend == "reference":
        return False
    reason = problem(device) or unsupported
    if reason is None:
        return True
    if backend == "fused":
        raise RuntimeError(f"backend='fused': {reason}")
    warn_once(reason)
    return False


def runs_fused_on_cpu(
    backend: Backend, what: str, tensor: Tensor, unsupported: str | None = None
) -> bool:
    """`runs_fused` for an operator that only takes float32 and float64 on a CPU.

    For other tensors "auto" logs nothing: there is no faster way than the reference.

    Args:
        backend: "auto", "reference" or "fused".
        what: What the operator computes, for messages.
        tensor: One of the arguments.
        unsupported: Why the operator does not take the arguments; None if it does.
    """
    if tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64):
        return runs_fused(backend, "cpu", unsupported)
    if backend == "auto":
        return False
    unsupported = f"the compiled {what} does not take {tensor.dtype} on {tensor.device.type}"
    return runs_fused(backend, "cpu", unsupported)
