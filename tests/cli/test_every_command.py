"""What holds for every command: --version, exit codes and shell completion."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from emorec import __version__, cli
from tests.cli.commands import call

INSTALLED = {"emorec-train": cli.train, "emorec-evaluate": cli.evaluate}
INSTALLED |= {"emorec-recommend": cli.recommend}


def commands(group=cli.main, name="emorec"):
    """Every command by its full name, groups included."""
    found = {name: group}
    if isinstance(group, click.Group):
        for each in group.commands.values():
            found |= commands(each, f"{name} {each.name}")
    return found


COMMANDS = commands()
RUNNABLE = {name: each for name, each in COMMANDS.items() if not isinstance(each, click.Group)}
# Arguments that no command can do its work with; the others always can.
FAILING = {
    "emorec train": ["--dataset", "nothing.csv"],
    "emorec evaluate": ["no-run"],
    "emorec recommend": ["no-run", "--user", "1"],
    "emorec score": ["no-run", "--pairs", "pairs.csv"],
    "emorec similar": ["no-run", "--item", "1"],
    "emorec explain": ["no-run", "--user", "1"],
    "emorec export": ["no-run", "--output", "vectors"],
    "emorec serve": ["no-run"],
    "emorec retrain": ["no-run"],
    "emorec tune": ["--study", "study", "--dataset", "nothing.csv"],
    "emorec doctor": ["--build"],
    "emorec data describe": ["nothing.csv"],
    "emorec data convert": ["nothing.csv", "--output", "log.csv"],
    "emorec data split": ["nothing.csv", "--output", "split"],
    "emorec data prepare": ["nothing.csv", "--output", "log"],
    "emorec data fetch": ["nothing"],
    "emorec data synthetic": ["--items", "1", "--output", "log.csv"],
}
NEVER_FAIL = {"emorec settings", "emorec data list"}


@pytest.mark.parametrize("name", COMMANDS)
def test_version_and_help_end_with_0(name):
    words = name.split()[1:]
    result = call(cli.main, *words, "--version")
    assert result.exit_code == 0 and re.search(rf"version {__version__}$", result.stdout.strip())
    result = call(cli.main, *words, "--help")
    assert result.exit_code == 0 and "--version" in result.stdout


@pytest.mark.parametrize("name", INSTALLED)
def test_version_of_the_installed_commands(name):
    result = call(INSTALLED[name], "--version")
    assert result.exit_code == 0 and f"version {__version__}" in result.stdout


def test_every_command_is_in_a_list():
    assert set(RUNNABLE) == set(FAILING) | NEVER_FAIL


@pytest.mark.parametrize("name", FAILING)
def test_a_failure_ends_with_1_and_one_line(name, tmp_path, monkeypatch):
    def fails():
        raise RuntimeError("there is no compiler")

    monkeypatch.setattr("emorec.ops.build.build_in_cache", fails)
    monkeypatch.chdir(tmp_path)
    result = call(cli.main, *name.split()[1:], *FAILING[name])
    assert result.exit_code == 1, result.output
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert result.stderr.endswith(f"{error}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_option_ends_with_2(name):
    result = call(cli.main, *name.split()[1:], "--no-such-option")
    assert result.exit_code == 2
    assert "No such option" in result.stderr and "Usage:" in result.stderr


@pytest.mark.parametrize("name", RUNNABLE)
def test_an_interrupt_ends_with_130(name, monkeypatch):
    def interrupted(**_):
        raise KeyboardInterrupt

    # Within the wrapper of the command, where its own function would run.
    run = RUNNABLE[name].callback
    (cell,) = [each for each in run.__closure__ if each.cell_contents is run.__wrapped__]
    monkeypatch.setattr(cell, "cell_contents", interrupted)
    arguments = FAILING.get(name, [])
    result = call(cli.main, *name.split()[1:], *arguments)
    assert result.exit_code == 130 and "Interrupted." in result.stderr


def completions(words, shell="bash"):
    """What a shell is offered for the last of some words."""
    variable = f"_{words[0].upper().replace('-', '_')}_COMPLETE"
    line = " ".join(words)
    environment = {variable: f"{shell}_complete", "COMP_WORDS": line}
    # bash and zsh give the number of the word, fish the word itself.
    environment["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words) - 1)
    command = INSTALLED.get(words[0], cli.main)
    return CliRunner().invoke(command, [], env=environment, prog_name=words[0]).output


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["emorec", "da"], "data"),
        (["emorec", "data", "con"], "convert"),
        (["emorec", "train", "--data"], "--dataset"),
        (["emorec", "train", "--preset", "emorec-g"], "emorec-graph"),
        (["emorec", "settings", "diff"], "diff-gat-thp-polarity"),
        (["emorec-train", "--preset", "emo-sage"], "emo-sage-thp-negatives"),
        (["emorec-train", "--backend", "d"], "dgl"),
        (["emorec-evaluate", "--vers"], "--version"),
        (["emorec-recommend", "--div"], "--diversity"),
    ],
)
def test_completion(shell, words, offered):
    text = completions(words, shell)
    assert offered in re.split(r"[\s,]+", text), text
