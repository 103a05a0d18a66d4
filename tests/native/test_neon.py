"""The CPU kernel for NEON, cross-compiled and run by an emulator where both are there."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from emorec.ops import build
from tests.native import toolchain

FLAGS = [flag for flag in build.cpp_flags() if not flag.startswith("-D")]


def test_values_and_gradients(tmp_path: Path) -> None:
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if platform.machine() == "aarch64":
        compiler, emulator = toolchain.cxx(), "env"
    if compiler is None:
        pytest.skip("needs aarch64-linux-gnu-g++, the cross-compiler")
    program = tmp_path / "test_cpu_kernel"
    sources = [toolchain.CSRC / "cpu/baseline.cpp", Path(__file__).with_name("test_cpu_kernel.cpp")]
    toolchain.compile_or_fail(
        [compiler, *FLAGS, "-Wall", "-Wextra", "-static", *sources, "-o", program]
    )
    if emulator is None:
        pytest.skip("it compiles; running it needs qemu-aarch64 (qemu-user)")
    result = toolchain.run([emulator, program])
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("neon")
