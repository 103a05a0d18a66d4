"""The CPU kernels under AddressSanitizer and UBSan, those that every processor has."""

from __future__ import annotations

from pathlib import Path

from emorec.ops import build
from tests.native import toolchain

FLAGS = [flag for flag in build.cpp_flags() if not flag.startswith(("-D", "-O"))]
SANITIZED = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def test_sanitizers_are_silent(tmp_path: Path) -> None:
    program = tmp_path / "test_cpu_kernel"
    sources = [toolchain.CSRC / "cpu/baseline.cpp", Path(__file__).with_name("test_cpu_kernel.cpp")]
    toolchain.compile_or_fail([toolchain.cxx(), *FLAGS, *SANITIZED, *sources, "-o", program])
    result = toolchain.run([program])
    assert result.returncode == 0, result.stdout[-4000:]
