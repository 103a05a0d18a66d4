from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest

from emorec import cli
from emorec.config import load_config
from tests.cli.commands import call


@pytest.mark.parametrize(
    "command", [cli.train, cli.evaluate, cli.recommend, cli.score, cli.similar]
)
def test_help(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert "--backend [auto|dgl|torch]" in result.stdout
    assert "\\b" not in result.stdout


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (cli.train, "  Examples:\n    emorec-train\n    emorec-train --dataset ml-1m"),
        (cli.evaluate, "as relevant\n  likes     only those with positive feedback count\n"),
    ],
)
def test_help_keeps_lines_of_examples_and_lists_apart(command, text):
    assert text in call(command, "--help").stdout


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "recommend", "score", "similar", "explain", "doctor", "data"]
)
def test_one_command_has_them_all(command):
    result = call(cli.main, command, "--help")
    assert result.exit_code == 0
    assert f"Usage: main {command}" in result.stdout


@pytest.mark.parametrize("preset", ["emorec", "diff-gat"])
def test_settings_are_shown_with_what_they_mean(preset, tmp_path):
    text = call(cli.main, "settings", preset).stdout
    assert "horizon = " in text and "  # next events that each state predicts; 0: a third " in text
    assert "  # none | sage | gat | sum; none: no graph encoder; sum: one layer " in text
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    assert load_config(file=tmp_path / "config.toml") == load_config(preset)


def test_version():
    assert re.fullmatch(r".*, version \d+\.\d+\.\d+\n", call(cli.main, "--version").stdout)


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "emorec", "settings", "emorec-graph"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'preset = "emorec-graph"' in run.stdout
    wrong = subprocess.run([*command[:3], "nothing"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "Usage: python -m emorec" in wrong.stderr


def test_the_package_can_be_imported_as_a_module(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["emorec", "nothing"])  # which would fail
    assert importlib.import_module("emorec.__main__").main is cli.main
