"""What is lost when a process is killed at any step: nothing."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from functools import partial
from unittest import mock

import numpy as np
import pytest

from emorec import cli
from emorec.training.loop import _Loop
from tests.cli.commands import TINY, call, log_lines, write_log
from tests.cli.test_resume import assert_same_run
from tests.faults import Counts
from tests.kills import NEVER, Killing, in_child, kill
from tests.operations import operation
from tests.test_power_loss import NAMES, TRAINING

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost(name, tmp_path, request):
    """With --run-slow there are more kills."""
    kills = 20 if request.config.getoption("--run-slow") and name not in TRAINING else 4
    each = operation(name, tmp_path / "template")
    counts = kill(
        tmp_path / "template", tmp_path, each.act, each.state, each.again, kills, each.cleans
    )
    print(f"{name}: {counts}")
    assert counts.tried > 0 and not counts.lost, counts


@pytest.mark.parametrize("refit", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_training_that_was_killed_ends_as_if_it_had_not_been(refit, tmp_path, request):
    """Killed at random steps of the optimiser and of the disk, and resumed."""
    kills = 20 if request.config.getoption("--run-slow") else 2
    log = write_log(tmp_path / "log.csv", log_lines())
    whole, folder, steps = tmp_path / "whole", tmp_path / "run", tmp_path / "steps"
    options = ("--epochs", 2, "--set", f"training.refit={refit}", "--batch-size", 2, *TINY)

    def train(run, killed_step, number):
        """Kills at the n-th step of one kind."""
        done = 0

        def counted(loop, loss, step=_Loop._step):
            nonlocal done
            if killed_step == "optimiser" and done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            done += 1
            return step(loop, loss)

        disk = Killing(run, number if killed_step == "disk" else NEVER)
        with mock.patch.object(_Loop, "_step", counted), disk():
            code = call(cli.train, "--dataset", log, "--run-dir", run, *options).exit_code
        steps.write_text(f"{done} {disk.done}")
        return code

    assert in_child(partial(train, whole, "", 0)) == 0
    most = dict(zip(("optimiser", "disk"), map(int, steps.read_text().split()), strict=True))
    rng = np.random.default_rng(refit)
    counts = Counts()
    for number in range(kills):
        kind = ("optimiser", "disk")[number % 2]
        at = int(rng.integers(most[kind]))
        shutil.rmtree(folder, ignore_errors=True)
        assert in_child(partial(train, folder, kind, at)) == -signal.SIGKILL
        has_begun = (folder / "interactions.safetensors").exists()
        again = (
            partial(call, cli.train, "--resume", folder)
            if has_begun
            else partial(call, cli.train, "--dataset", log, "--run-dir", folder, *options)
        )
        problem = ""
        if in_child(lambda again=again: again().exit_code):
            problem = "it cannot be resumed"
        else:
            try:
                assert_same_run(whole, folder)
            except AssertionError as error:
                problem = f"another result: {error}"
        counts.note(f"{kind} step {at}", problem)
    print(f"training, refit {refit}: {counts}")
    assert not counts.lost, counts
