"""The compilers that the tests of native code need, and where the sources are."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command; output and errors are one text."""
    return subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def compile_or_fail(command: list[str | Path]) -> str:
    """Runs a compiler; its complaints are the test's."""
    result = run(command)
    assert result.returncode == 0, f"{command[0]} failed:\n{result.stdout[-4000:]}"
    return result.stdout


def cxx() -> str:
    """The C++ compiler; skips where there is none."""
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ (or $CXX)")
    return compiler
