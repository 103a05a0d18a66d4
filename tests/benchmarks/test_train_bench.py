"""What training costs: a peer that cannot be run costs no figure of the others."""

from __future__ import annotations

import json

import pytest
import train_bench
from click.testing import CliRunner


def test_a_peer_that_is_missing_is_named_after_the_table(tmp_path, monkeypatch):
    row = {"events": 9, "seconds": 1.5, "events_per_second": 6}
    monkeypatch.setattr(train_bench, "one_epoch", lambda *options: row)
    has_sasrec = train_bench.peer_epoch

    def peer(name, *rest):
        return row if name == "sasrec" else has_sasrec(name, *rest)

    monkeypatch.setattr(train_bench, "peer_epoch", peer)
    options = ["--dataset", "synthetic", "--environments", str(tmp_path)]
    figures = tmp_path / "figures.json"
    result = CliRunner().invoke(train_bench.main, ["peers", *options, "--json", str(figures)])
    assert result.exit_code == 1, result.output
    assert "| sasrec | 1.5 |" in result.output
    assert "not measured:\n  lightgcn: " in result.output and str(tmp_path) in result.output
    assert set(json.loads(figures.read_text())["rows"]) == {*train_bench.OURS, "sasrec"}


@pytest.mark.parametrize("command", ["peers", "growth", "threads"])
def test_help(command):
    assert CliRunner().invoke(train_bench.main, [command, "--help"]).exit_code == 0
