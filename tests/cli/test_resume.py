from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from emorec import EmoRec, cli
from emorec.storage.tensors import load_tensors
from tests.cli.commands import TINY, assert_fails, call, log_lines, write_log
from tests.small import held, interrupt_training, small_config, small_log


def records(folder):
    """Lines of metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{**line, "seconds": 0} for line in lines]


def assert_same_run(one, other):
    ours, theirs = (load_tensors(folder / "model.safetensors")[0] for folder in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert records(one) == records(other)
    models = (json.loads((run / "results.json").read_text())["models"] for run in (one, other))
    assert len({json.dumps(results) for results in models}) == 1


def long_training(data):
    arguments = ["--dataset", data, "--epochs", 12, "--batch-size", 1, *TINY]
    return [*arguments, "--preset", "emo-sage-thp", "--seed", 3, "--set", "training.patience=12"]


def started(*arguments):
    """A process that trains."""
    command = [sys.executable, "-c", "from emorec.cli import train; train()"]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(cli.__file__).parents[2],
        # A test run in the background may ignore the signal, and its children would inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


class TestResume:
    # The third epoch that is run is the third of three, or the first of the refit.
    @pytest.mark.parametrize("settings", [["epochs=3", "refit=0"], ["epochs=2", "refit=1"]])
    @pytest.mark.parametrize("epoch", [1, 3])
    def test_after_ctrl_c(self, log, tmp_path, monkeypatch, settings, epoch):
        whole, stopped = tmp_path / "whole", tmp_path / "a run"
        arguments = ["--dataset", log, "--batch-size", 2, *TINY]
        for setting in settings:
            arguments += ["--set", f"training.{setting}"]
        call(cli.train, *arguments, "--run-dir", whole)
        with monkeypatch.context() as patch:
            interrupt_training(patch, epoch, KeyboardInterrupt)
            result = call(cli.train, *arguments, "--run-dir", stopped)
        assert result.exit_code == 130
        assert "All finished epochs are saved" in result.stderr
        assert f"emorec-train --resume '{stopped}'" in result.stderr
        assert not (stopped / "model.safetensors").exists()
        result = call(cli.train, "--resume", stopped)
        assert result.exit_code == 0, result.output
        assert f"Resuming {stopped}" in result.stdout
        assert_same_run(whole, stopped)

    def test_a_real_process_and_a_real_signal(self, tmp_path):
        # Many small steps, so that the signal comes in the middle of an epoch; many epochs, so that
        # it does not come too late on a busy machine.
        data = write_log(tmp_path / "log.csv", log_lines(num_users=60, num_items=40, events=8))
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        arguments = [*long_training(data), "--run-dir"]
        process = started(*arguments, stopped)
        try:
            assert any(line.startswith("epoch   1") for line in process.stdout)
            time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert "Stopped. All finished epochs are saved" in errors
        assert 1 <= len(records(stopped)) < 12
        assert not list(stopped.glob(".*.tmp"))
        assert call(cli.train, "--resume", stopped).exit_code == 0
        call(cli.train, *arguments, whole)
        assert_same_run(whole, stopped)

    def test_a_second_process_is_kept_out_until_the_first_is_killed(self, tmp_path):
        data = write_log(tmp_path / "log.csv", log_lines(num_users=60, num_items=40, events=8))
        folder = tmp_path / "run"
        process = started(*long_training(data), "--run-dir", folder)
        try:
            assert any(line.startswith("epoch   1") for line in process.stdout)
            message = f"run is being written by process {process.pid}; wait for it or choose ano"
            assert_fails(cli.train, "--resume", folder, message=message)
            assert_fails(cli.train, *long_training(data), "--run-dir", folder, message=message)
            model = EmoRec(config=small_config("training.epochs=1"))
            model.fit(small_log([(0, 0, 0, 0), (1, 1, 0, 1)], 2, 2), progress=False)
            with pytest.raises(ValueError, match=message):
                model.save(folder)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert call(cli.train, "--resume", folder, "--epochs", 12).exit_code == 0
        assert len(records(folder)) >= 12
        assert not list(folder.glob(".*.tmp"))

    def test_more_epochs(self, trained, tmp_path):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        result = call(cli.train, "--resume", folder, "--epochs", 3)
        assert result.exit_code == 0, result.output
        assert "epoch   3" in result.stdout
        assert "epoch   2" not in result.stdout

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--dataset", "x.csv"],
            ["--preset", "diff-gat"],
            ["--data-dir", "x"],
            ["--set", "training.seed=3"],
            ["--seed", "3"],
            ["--run-dir", "x"],
        ],
    )
    def test_other_options_are_refused(self, trained, arguments):
        assert_fails(
            cli.train, "--resume", trained[0], *arguments,
            message="only --epochs, --threads, --device, --tensorboard and --set",
        )  # fmt: skip

    def test_a_run_without_a_test_part(self, tmp_path):
        config = small_config("training.epochs=1")
        EmoRec(config=config).fit(small_log([(0, 0, 0, 0), (1, 1, 0, 1)], 2, 2)).save(tmp_path)
        message = "has no test split: EmoRec.save wrote it"
        assert_fails(cli.train, "--resume", tmp_path, message=message)

    def test_no_run_there(self, tmp_path):
        assert_fails(cli.train, "--resume", tmp_path / "gone", message="gone: no such run folder")

    def test_one_writer_per_folder(self, log, trained, tmp_path):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        message = "run is being written by .* process; wait for it or choose another folder"
        with held(folder):
            assert_fails(cli.train, "--resume", folder, message=message)
            assert_fails(cli.train, "--dataset", log, "--run-dir", folder, *TINY, message=message)
        assert call(cli.train, "--resume", folder).exit_code == 0

    def test_on_another_device(self, trained, tmp_path):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        assert call(cli.train, "--resume", folder, "--device", "cpu").exit_code == 0
        message = "training.device is 'cuda:99', but PyTorch finds"
        assert_fails(cli.train, "--resume", folder, "--device", "cuda:99", message=message)

    def test_leftovers_of_a_killed_run_go(self, trained, tmp_path):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        left = folder / ".checkpoint-refit-2.safetensors.a1b2c3_4.tmp"
        left.write_bytes(b"half")
        assert call(cli.train, "--resume", folder).exit_code == 0
        assert not left.exists()

    def test_a_disk_that_fills_before_the_log_is_stored(self, log, tmp_path, monkeypatch):
        folder = tmp_path / "run"

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        arguments = "--dataset", log, "--run-dir", folder, "--epochs", 1, *TINY
        with monkeypatch.context() as patch:
            patch.setattr("emorec.storage.tensors.save_file", full)
            assert_fails(cli.train, *arguments, message="No space left on device")
        assert not folder.exists()
        # nor does the same, if the process is killed there
        (folder / ".writing").mkdir(parents=True)
        (folder / ".writing" / "config.toml").write_text("preset = ")
        (folder / ".lock").write_text("1")
        assert call(cli.train, *arguments).exit_code == 0

    def test_a_damaged_checkpoint(self, trained, tmp_path):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        path = folder / "checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        message = "checkpoint.safetensors: is damaged .*; remove it to start over"
        assert_fails(cli.train, "--resume", folder, message=message)
        path.unlink()
        assert call(cli.train, "--resume", folder).exit_code == 0
