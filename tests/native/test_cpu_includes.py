"""Every source file of the CPU kernels includes what it relies on."""

from __future__ import annotations

from pathlib import Path

import pytest

from emorec.ops import build
from tests.native import toolchain

FLAGS = [flag for flag in build.cpp_flags() if not flag.startswith("-D")]
SOURCES = sorted((toolchain.CSRC / "cpu").glob("*.inl"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_compiles_as_the_first_include(tmp_path: Path, source: Path) -> None:
    program = tmp_path / "first.cpp"
    program.write_text(f"""
#include "kernels.h"
#define EMOREC_NAME "first"
#define EMOREC_VECTOR_BYTES 16
#define EMOREC_VECTORS_PER_PANEL 2
#define EMOREC_ROWS_PER_TILE 6
namespace emorec {{
namespace {{
#include "{source.name}"
}}
}}
""")
    folder = toolchain.CSRC / "cpu"
    toolchain.compile_or_fail([toolchain.cxx(), *FLAGS, "-fsyntax-only", f"-I{folder}", program])
