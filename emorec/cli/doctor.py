"""Which parts of EmoRec work on this machine, and the commands that fix those that do not."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch

import emorec
from emorec.data.graph import import_dgl
from emorec.ops import build, library

__all__ = ["report"]


def report() -> str:
    """One line per part: its state, and the remedy if it is missing."""
    lines = {
        "emorec": emorec.__version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads, {_devices()}",
        "dgl": _try(_dgl),
        "operators": _operators("cpu"),
    }
    if torch.version.cuda is not None:
        lines["operators on cuda"] = _operators("cuda")
    lines["compiler"] = shutil.which("c++") or "none: install g++ to build the operators"
    lines["ninja"] = shutil.which("ninja") or "none: pip install ninja, for `emorec doctor --build`"
    lines["build cache"] = str(build.cache_folder())
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {state}" for name, state in lines.items())


def _devices() -> str:
    if torch.version.cuda is None:
        return "no CUDA"
    return f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPU"


def _dgl() -> str:
    import_dgl()
    return version("dgl")


def _try(state: Callable[[], str]) -> str:
    try:
        return state()
    except (ImportError, PackageNotFoundError) as error:
        return f"missing: {str(error).splitlines()[0]}"


def _operators(device: str) -> str:
    if (problem := library.problem(device)) is not None:
        return f"PyTorch references run: {problem}"
    path = library.find(build.LIBRARIES[device])
    if device == "cpu":
        return f"compiled, {torch.ops.emorec.instruction_set()} ({path})"
    return f"compiled ({path})"
