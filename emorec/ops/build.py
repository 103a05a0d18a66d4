"""How the compiled library is built: its sources and flags, and building it just in time.

`setup.py` reads this too, so it imports no more of EmoRec.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch
from torch.torch_version import TorchVersion

__all__ = [
    "LIBRARIES",
    "build_in_cache",
    "cache_folder",
    "cpp_flags",
    "cpp_sources",
    "cuda_cpp_flags",
    "cuda_home",
    "cuda_sources",
    "nvcc_flags",
    "prepare_cuda",
    "source_folder",
    "too_old",
]

LIBRARIES = {"cpu": "_C", "cuda": "_C_cuda"}
"""The module of each kind of device, in the order of loading."""

OLDEST_TORCH = "2.10"
"""The first PyTorch with the stable ABI that is used: what one later version builds runs with
another, so a wheel serves all of them."""


def too_old() -> str | None:
    """Why the libraries can neither be built nor loaded with this PyTorch; None if they can."""
    if TorchVersion(torch.__version__) >= OLDEST_TORCH:
        return None
    return (
        f"the compiled operators need PyTorch {OLDEST_TORCH} or later, this is "
        f"{torch.__version__}; pip install 'torch>={OLDEST_TORCH}'"
    )


def source_folder() -> Path | None:
    """The folder csrc, beside the package in a checkout and inside it where installed."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "csrc", package / "csrc"):
        if (folder / "hawkes_attention.h").is_file():
            return folder
    return None


def cpp_sources(folder: Path) -> list[Path]:
    """C++ files of the CPU library, which also holds the schemas."""
    return [*sorted(folder.glob("*.cpp")), *sorted(folder.glob("cpu/*.cpp"))]


def cpp_flags() -> list[str]:
    """Compiler flags; wider vectors are chosen at run time, so there is no -march."""
    major, minor = map(int, OLDEST_TORCH.split("."))
    return [
        "-O3",
        "-std=c++20",
        "-fvisibility=hidden",
        "-fno-math-errno",
        f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000",
    ]


def cuda_sources(folder: Path) -> list[Path]:
    """Files of the CUDA library: the kernels, which do not include PyTorch, and the host code."""
    return [*sorted(folder.glob("cuda/*.cu")), *sorted(folder.glob("cuda/*.cpp"))]


def cuda_cpp_flags() -> list[str]:
    """Compiler flags of the CUDA library's host code."""
    return [*cpp_flags(), "-DUSE_CUDA"]


def nvcc_flags() -> list[str]:
    """Compiler flags of kernels, but for the architectures."""
    return ["-O3", "-std=c++17"]


def cuda_home() -> Path | None:
    """The CUDA toolkit; None where there is none.

    The nvcc on the path may be a wrapper in another place, so its dry run is read instead.
    """
    if home := os.environ.get("CUDA_HOME"):
        return Path(home)
    if (nvcc := shutil.which("nvcc")) is None:
        return None
    command = [nvcc, "--dryrun", "-x", "cu", "-c", os.devnull]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in (answer.stdout + answer.stderr).splitlines():
        if line.startswith("#$ TOP="):
            return Path(line.removeprefix("#$ TOP=")).resolve()
    return None


def prepare_cuda() -> str | None:
    """Tells PyTorch's build tools where the toolkit is and what to build for.

    A GPU need not be present: ``TORCH_CUDA_ARCH_LIST`` lists the architectures, by default all that
    the kernels support.

    Returns:
        Why the CUDA library cannot be built; None if it can.
    """
    from torch.utils import cpp_extension

    if torch.version.cuda is None:
        return "this PyTorch has no CUDA"
    if (home := cuda_home()) is None:
        return "there is no nvcc (the CUDA toolkit's compiler) on the path"
    cpp_extension.CUDA_HOME = str(home)
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0;12.0+PTX")
    return None


def cache_folder() -> Path:
    """Where just-in-time builds go: one folder per state of the sources and version of PyTorch."""
    root = os.environ.get("EMOREC_CACHE_DIR") or Path.home() / ".cache" / "emorec"
    digest = hashlib.sha256(torch.__version__.encode())
    if (folder := source_folder()) is not None:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return Path(root) / digest.hexdigest()[:16]


def build_in_cache(verbose: bool = False) -> Path:
    """Compiles the CPU library, and the CUDA library where it can be, into the cache folder.

    Needs a C++ compiler and ninja, and for CUDA its toolkit and a PyTorch that has CUDA.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: If the sources were not installed.
        RuntimeError: If PyTorch is too old, or compiling fails.
    """
    from torch.utils import cpp_extension

    if (problem := too_old()) is not None:
        raise RuntimeError(problem)
    if (sources := source_folder()) is None:
        raise FileNotFoundError("csrc, the C++ sources, is neither beside nor inside the package")
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    cpp_extension.load(
        name=LIBRARIES["cpu"],
        sources=[str(path) for path in cpp_sources(sources)],
        extra_cflags=cpp_flags(),
        build_directory=str(folder),
        is_python_module=False,
        verbose=verbose,
    )
    if prepare_cuda() is None:
        cpp_extension.load(
            name=LIBRARIES["cuda"],
            sources=[str(path) for path in cuda_sources(sources)],
            extra_cflags=cuda_cpp_flags(),
            extra_cuda_cflags=nvcc_flags(),
            build_directory=str(folder),
            is_python_module=False,
            verbose=verbose,
        )
    return folder
