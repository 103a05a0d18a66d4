"""What reading a log and a step of training cost: the benchmarks agree with themselves."""

from __future__ import annotations

import json

import data_bench
import step_bench
from click.testing import CliRunner

from emorec.ops import library


def test_data_bench_reads_the_same_from_csv_and_parquet(tmp_path):
    figures = tmp_path / "figures.json"
    result = CliRunner().invoke(data_bench.main, ["--events", "1e4", "--json", str(figures)])
    assert result.exit_code == 0, result.output
    rows = json.loads(figures.read_text())["rows"]
    assert [row["format"] for row in rows] == ["csv", "parquet"]
    assert rows[0]["digest"] == rows[1]["digest"]
    assert all(stage["cpu_seconds"] >= 0 for row in rows for stage in row["stages"])


def test_step_bench_parts_add_up(tmp_path):
    figures = tmp_path / "figures.json"
    small = ("sequence.layers=1", "model.embedding_size=16", "sequence.max_length=20")
    settings = [word for setting in small for word in ("--set", setting)]
    options = ["--dataset", "synthetic", "--steps", "2", "--json", str(figures), *settings]
    result = CliRunner().invoke(step_bench.main, options)
    assert result.exit_code == 0, result.output
    rows = {row["part"]: row for row in json.loads(figures.read_text())["rows"]}
    parts = {"projections", "softmax loss", "optimizer"}
    if library.problem("cpu") is None:  # else the attention is of many operators
        parts.add("attention")
    assert parts <= set(rows)
    assert all(row["ms"] >= 0 and row["floor_ms"] >= 0 for row in rows.values())
    assert f"| step | {sum(row['ms'] for row in rows.values()):.1f} | 100% |" in result.output
