"""The benchmark for a GPU, tried on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import gpu_bench
import pytest
import torch
from click.testing import CliRunner

from emorec.data.synthetic import generate
from emorec.ops import library

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SMALL = ("--set", "model.embedding_size=8", "--set", "graph.size=8", "--set", "graph.paths=5")
SMALL += ("--set", "sequence.max_length=10", "--set", "training.batch_size=512")


LOG = generate(num_users=40, num_items=100, num_topics=8, events_per_user=30).interactions


def bench(*arguments: str) -> None:
    with patch.object(gpu_bench, "load_dataset", lambda name, folder: LOG):
        done = CliRunner().invoke(gpu_bench.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the parts leave."""
    if (problem := library.problem("cpu")) is not None:
        pytest.skip(problem)
    folder = tmp_path_factory.mktemp("gpu")
    options = "--device", "cpu", "--case", "3,17,2", "--repetitions", "1"
    without = "--without", "torch.compile", "--without", "FlexAttention"
    bench("attention", "--json", str(folder / "attention.json"), *options, *without)
    options = "--device", "cpu", "--epochs", "1"
    bench("training", "--json", str(folder / "training.json"), *options, *SMALL)
    (folder / "tests.xml").write_text(
        '<testsuites><testsuite tests="9" failures="1" errors="0" skipped="2"/></testsuites>'
    )
    return folder


def test_attention(folder: Path) -> None:
    """The peers compute what the reference does, to the precision of their inputs."""
    (case,) = json.loads((folder / "attention.json").read_text())["cases"].values()
    # Three sequences of 17 x 18 / 2 pairs, two heads of 64: 2 products forward, 5 backward.
    assert case["flops"] == {"forward": 2 * 2 * 64 * 2 * 3 * 153, "both": 7 * 2 * 64 * 2 * 3 * 153}
    rows = {(row["peer"], row["decay"]): row for row in case["peers"]}
    for peer in (("fused", "multiplicative"), ("eager", "multiplicative"), ("fused", "additive")):
        row = rows[peer]
        assert row["error"] < 0.03
        assert 0 < row["forward"] < row["both"]
        assert row["both TFLOP/s"] == pytest.approx(case["flops"]["both"] / row["both"] / 1e9)
    assert "error" not in rows["SDPA", "none"]  # it computes something else
    assert rows["forgetting attention", "additive"].get("left out") or torch.cuda.is_available()


def test_training(folder: Path) -> None:
    runs = json.loads((folder / "training.json").read_text())["runs"]
    assert [(run["device"], run["precision"]) for run in runs] == [
        ("cpu", "float32"),
        ("cpu", "bfloat16"),
        ("cpu", "float32"),
    ]
    full, low, again = ([epoch["loss"] for epoch in run["epochs"]] for run in runs)
    assert full == again
    assert low == pytest.approx(full, rel=1e-2) and low != full


def test_what_is_there_is_not_measured_again(folder: Path) -> None:
    for part in ("attention", "training"):
        before = json.loads((folder / f"{part}.json").read_text())
        options = ("--case", "3,17,2") if part == "attention" else ()
        bench(part, "--json", str(folder / f"{part}.json"), "--device", "cpu", *options)
        after = json.loads((folder / f"{part}.json").read_text())
        name = "cases" if part == "attention" else "runs"
        assert after[name] == before[name]


def test_the_table_has_all_parts(folder: Path) -> None:
    bench("table", str(folder))
    text = (folder / "gpu.md").read_text()
    assert "Tests: 9 tests, 1 failures, 0 errors, 2 skipped." in text
    assert "**3 x 17, 2 heads**" in text
    assert "| fused | additive |" in text
    assert text.count("| encoders |") == 3
    found = json.loads((folder / "gpu.json").read_text())
    assert set(found) == {"attention", "machine", "tests", "training"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure for minutes")
@pytest.mark.parametrize("part", ["attention", "training"])
def test_a_part_says_that_there_is_no_gpu(tmp_path: Path, part: str) -> None:
    with patch.object(gpu_bench, "load_dataset", lambda name, folder: LOG):
        done = CliRunner().invoke(gpu_bench.main, [part, "--json", str(tmp_path / "a.json")])
    assert done.exit_code == 2
    assert "--device cuda: PyTorch finds no CUDA device here" in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure for minutes")
def test_the_script_says_that_there_is_no_gpu(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BENCHMARKS / "gpu_check.sh"), str(tmp_path / "results")],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "PyTorch finds no CUDA device here"
    assert not any((tmp_path / "results").iterdir())
