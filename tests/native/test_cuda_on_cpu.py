"""The CUDA kernels, run without a GPU: `cuda_on_cpu` executes the same source with g++.

Three builds, as each catches what the others cannot: plain (wrong values, deadlocks, copies not
waited for), AddressSanitizer with UBSan (accesses out of bounds), and ThreadSanitizer (missing
barriers). The mutations below prove it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.native import toolchain

HERE = Path(__file__).parent
UNITS = ("runtime", "hawkes_attention_fwd", "hawkes_attention_bwd", "test_hawkes_attention")
FLAGS = {
    "plain": ["-O2"],
    "asan": ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "tsan": ["-O1", "-g1", "-fsanitize=thread"],
}
IN_ORDER, REVERSED, RANDOM = "0", "1", "7"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds the test program from csrc or, of one unit, from a changed copy."""
    compiler = toolchain.cxx()
    objects: dict[tuple[str, str], Path] = {}

    def compile_unit(variant: str, unit: str, csrc: Path, folder: Path) -> Path:
        output = folder / f"{variant}-{unit}.o"
        flags = [f"-I{HERE / 'cuda_on_cpu'}", "-std=c++20", "-Wall", "-Wextra"]
        if csrc == toolchain.CSRC:
            flags += ["-Werror"]
        flags += ["-Wno-unknown-pragmas", "-Wno-missing-field-initializers"]
        if unit == "runtime":  # must not be instrumented, see there
            source, flags = (
                HERE / "cuda_on_cpu/runtime.cpp",
                [*flags, "-O2", f"-DON_{variant.upper()}"],
            )
        elif unit.startswith("test_"):
            source, flags = HERE / f"{unit}.cpp", [*flags, *FLAGS[variant]]
        else:
            source, flags = csrc / f"cuda/{unit}.cu", [*flags, *FLAGS[variant], "-x", "c++"]
        toolchain.compile_or_fail([compiler, *flags, "-c", source, "-o", output])
        return output

    def build(variant: str, mutated: str | None = None, csrc: Path | None = None) -> Path:
        folder = tmp_path_factory.mktemp(variant)
        linked = []
        for unit in UNITS:
            if unit == mutated:
                assert csrc is not None
                linked.append(compile_unit(variant, unit, csrc, folder))
                continue
            if (variant, unit) not in objects:
                objects[variant, unit] = compile_unit(variant, unit, toolchain.CSRC, folder)
            linked.append(objects[variant, unit])
        program = folder / "test_hawkes_attention"
        toolchain.compile_or_fail([compiler, *FLAGS[variant], *linked, "-o", program])
        return program

    return build


def test_values_and_gradients(build: Callable[..., Path]) -> None:
    result = toolchain.run([build("plain"), "all", IN_ORDER, REVERSED, RANDOM])
    assert result.returncode == 0, result.stdout[-8000:]
    assert "0 of 111 runs failed" in result.stdout


@pytest.mark.parametrize("variant", ["asan", "tsan"])
def test_sanitizers_are_silent(build: Callable[..., Path], variant: str) -> None:
    result = toolchain.run([build(variant), "few", RANDOM])
    assert result.returncode == 0, result.stdout[-8000:]
    assert "0 of 9 runs failed" in result.stdout


FORWARD, BACKWARD = "hawkes_attention_fwd", "hawkes_attention_bwd"
MUTATIONS = {
    "forward barrier missing": (
        "tsan",
        FORWARD,
        (
            "hawkes_attention_fwd.cuh",
            "__syncthreads();  // the values are there, the keys used up",
            "",
        ),
        "data race",
    ),
    "backward barrier missing": (
        "tsan",
        BACKWARD,
        ("hawkes_attention_bwd.cuh", "__syncthreads();  // the tiles before are used up", ""),
        "data race",
    ),
    "barrier between heads missing": (
        "tsan",
        BACKWARD,
        (
            "hawkes_attention_bwd.cuh",
            "__syncthreads();  // the tiles of the head before are used up",
            "",
        ),
        "data race",
    ),
    "weights not divided by their sum": (
        "plain",
        BACKWARD,
        ("hawkes_attention_bwd.cuh", "  a *= query.inverse_sum;\n", ""),
        "FAIL",
    ),
    "warp barrier missing": (
        "tsan",
        FORWARD,
        ("tiles.cuh", "__syncwarp();  // the product before has read the strip", ""),
        "data race",
    ),
    "shared memory one element short": (
        "asan",
        FORWARD,
        ("launch.cuh", "arguments, shared_bytes, stream", "arguments, shared_bytes - 4, stream"),
        "AddressSanitizer",
    ),
    "tail guard of tiles dropped": (
        "asan",
        FORWARD,
        (
            "tiles.cuh",
            "row < count ? size - first_column - column : 0",
            "size - first_column - column",
        ),
        "AddressSanitizer",
    ),
    "tail guard of results dropped": (
        "asan",
        FORWARD,
        ("tiles.cuh", "if (fragment_row(e) >= count) continue;", ""),
        "AddressSanitizer",
    ),
    "wait for copies missing": (
        "plain",
        FORWARD,
        (
            "hawkes_attention_fwd.cuh",
            "      cp_async_wait<0>();\n      __syncthreads();  // the keys",
            "      __syncthreads();  // the keys",
        ),
        "FAIL",
    ),
    "barrier that some threads skip": (
        "plain",
        FORWARD,
        (
            "hawkes_attention_fwd.cuh",
            "      __syncthreads();  // the values",
            "      if (lane() > 3) __syncthreads();  // the values",
        ),
        "deadlock",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutation_is_caught(build: Callable[..., Path], tmp_path: Path, name: str) -> None:
    variant, unit, (file, old, new), evidence = MUTATIONS[name]
    csrc = shutil.copytree(toolchain.CSRC, tmp_path / "csrc")
    source = csrc / "cuda" / file
    text = source.read_text()
    assert old in text, f"the mutation no longer fits {file}"
    source.write_text(text.replace(old, new, 1))
    result = toolchain.run([build(variant, unit, csrc), "few", IN_ORDER])
    assert result.returncode != 0, result.stdout[-8000:]
    assert evidence in result.stdout
