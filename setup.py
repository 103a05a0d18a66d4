"""Builds the package and, where it can, the compiled operators.

Everything static is in pyproject.toml. The compiled library is optional: without it the PyTorch
reference runs. EMOREC_BUILD_EXT=1 makes it a must, =0 leaves it out; unset, it is built if PyTorch
and a compiler are there (an isolated build has no PyTorch: use --no-build-isolation, or build it in
place afterwards with `make build`). EMOREC_BUILD_CUDA is the same for the library of CUDA kernels,
built if PyTorch has CUDA and nvcc is there; a GPU makes no difference.
"""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent


def wanted(variable: str) -> bool | None:
    """Whether a build switch asks for its part; None if it is not set."""
    value = os.environ.get(variable, "")
    if value not in ("", "0", "1"):
        sys.exit(f"{variable} must be 0 or 1, got {value!r}")
    return None if value == "" else value == "1"


def extension() -> dict:
    """The arguments of setup() that build the library; none where it is left out."""
    required = wanted("EMOREC_BUILD_EXT")
    if required is False:
        return {}
    if importlib.util.find_spec("torch") is None:
        if required:
            sys.exit("EMOREC_BUILD_EXT=1 needs PyTorch: install it, then use --no-build-isolation")
        print("emorec: no PyTorch to build with, so the compiled operators are left out")
        return {}

    from torch.utils.cpp_extension import BuildExtension, CppExtension

    spec = importlib.util.spec_from_file_location("build", ROOT / "emorec" / "ops" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    if (problem := build.too_old()) is not None:
        if required:
            sys.exit(f"EMOREC_BUILD_EXT=1: {problem}")
        print(f"emorec: the compiled operators are left out: {problem}")
        return {}

    class Build(BuildExtension):
        """Goes on without the library if it cannot be built and nobody insists."""

        def run(self) -> None:
            try:
                super().run()
            except Exception as error:  # compilers fail in many ways, none of them fatal here
                if required or wanted("EMOREC_BUILD_CUDA"):
                    raise
                print(f"emorec: the compiled operators are left out: {error}")

    extensions: list[Extension] = [
        CppExtension(
            f"emorec.{build.LIBRARIES['cpu']}",
            [str(path.relative_to(ROOT)) for path in build.cpp_sources(ROOT / "csrc")],
            extra_compile_args=build.cpp_flags(),
            py_limited_api=True,
        )
    ]
    extensions += cuda_extension(build)
    return {
        "ext_modules": extensions,
        "cmdclass": {"build_ext": Build},
        "options": {"bdist_wheel": {"py_limited_api": "cp311"}},
    }


def cuda_extension(build: ModuleType) -> list[Extension]:
    """The library of CUDA kernels; none where it is left out."""
    required = wanted("EMOREC_BUILD_CUDA")
    if required is False:
        return []
    if (problem := build.prepare_cuda()) is not None:
        if required:
            sys.exit(f"EMOREC_BUILD_CUDA=1: {problem}")
        print(f"emorec: the CUDA kernels are left out: {problem}")
        return []

    from torch.utils.cpp_extension import CUDAExtension

    return [
        CUDAExtension(
            f"emorec.{build.LIBRARIES['cuda']}",
            [str(path.relative_to(ROOT)) for path in build.cuda_sources(ROOT / "csrc")],
            extra_compile_args={"cxx": build.cuda_cpp_flags(), "nvcc": build.nvcc_flags()},
            py_limited_api=True,
        )
    ]


packages, package_dir = find_packages(include=["emorec*"]), {"": "."}
if "editable_wheel" not in sys.argv:
    # `emorec doctor --build` compiles the installed sources; a checkout has its own. Without this
    # package an editable install needs no import hook, which Python asks too late in the folder
    # that holds a clone named emorec: it would take the clone itself for the package.
    packages, package_dir = [*packages, "emorec.csrc"], {"emorec.csrc": "csrc"}

setup(packages=packages, package_dir=package_dir, **extension())
