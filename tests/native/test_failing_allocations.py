"""Each allocation of the compiled operators fails in turn: an error, and nothing is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.native import toolchain
from tests.ops.operators import needs_library

HERE = Path(__file__).parent


@needs_library
@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux's")
def test_every_allocation(tmp_path: Path) -> None:
    preloaded = tmp_path / "failing_allocations.so"
    source = HERE / "failing_allocations.cpp"
    toolchain.compile_or_fail(
        [toolchain.cxx(), "-shared", "-fPIC", source, "-o", preloaded, "-ldl"]
    )
    result = toolchain.run(
        [sys.executable, HERE / "failing_allocations.py", "2"],
        LD_PRELOAD=str(preloaded),
        PYTHONPATH=str(HERE.parents[1]),
    )
    assert result.returncode == 0, result.stdout[-4000:]
    counts = {}
    for line in result.stdout.splitlines():
        name, *numbers = line.split()
        counts[name] = [int(number) for number in numbers]
    assert set(counts) == {"attention", "graph", "update", "normed", "added", "softmax"}
    for name, (tried, errors, same_afterwards) in counts.items():
        assert tried > 5, name
        assert errors == same_afterwards == tried, name
