"""What is lost when the power goes at any step: nothing."""

from __future__ import annotations

import os
import sys

import pytest

from emorec.storage.files import sync_file, sync_folder, write_text
from tests.operations import OPERATIONS, operation, trying
from tests.power_loss import NEVER, lose_power

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
TRAINING = ("train", "resume", "continue")
NAMES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in TRAINING else []) for name in OPERATIONS
]


def read(folder):
    path = folder / "a"
    return path.read_text() if path.exists() else None


def careless(folder):
    (folder / "a").write_text("new")


def in_place(folder):
    with (folder / "a").open("w") as file:
        file.write("new")
        file.flush()
        os.fsync(file.fileno())


def without_content(folder):
    (folder / "b").write_text("new")
    (folder / "b").replace(folder / "a")
    sync_folder(folder)


def without_name(folder):
    (folder / "b").write_text("new")
    sync_file(folder / "b")
    (folder / "b").replace(folder / "a")


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (careless, "gone"),
        (in_place, "neither old nor new"),
        (without_content, "gone"),
        (without_name, "what was acknowledged is gone"),
        (lambda folder: write_text(folder / "a", "new"), ""),
    ],
)
def test_what_is_not_safe_is_found(write, problem, tmp_path):
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "a").write_text("old")
    counts = lose_power(tmp_path / "template", tmp_path, trying(write), read, cleans=False)
    assert any(problem in each for each in counts.lost) == bool(problem)
    assert counts.tried > 2


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost(name, tmp_path, request):
    """With --run-slow the operation is done again after each loss, but for training."""
    repeats = 30 if name in TRAINING else NEVER if request.config.getoption("--run-slow") else 4
    each = operation(name, tmp_path / "template")
    counts = lose_power(
        tmp_path / "template", tmp_path, each.act, each.state, each.again, repeats, each.cleans
    )
    print(f"{name}: {counts}")
    assert counts.tried > 0 and not counts.lost, counts
