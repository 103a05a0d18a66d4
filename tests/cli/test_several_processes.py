"""emorec-train on several processes: what happens when one of them fails."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from emorec.cli import train
from emorec.storage.tensors import load_tensors
from tests.cli.commands import assert_fails
from tests.small import torchrun

OPTIONS = (
    *("--preset", "emorec-graph", "--epochs", "3", "--backend", "torch"),
    *(
        f"--set={each}"
        for each in (
            "graph.size=16",
            "graph.batch_size=16",
            "split.n=3",
            "graph.paths=5",
            "training.refit=0",
            "training.timeout=60",
        )
    ),
)
MOST_SECONDS = 20  # from the failure of a process to the end of all, on a busy machine
KILL = "SIGKILL"


def start(
    folder: Path,
    number: int = 2,
    options: tuple[str, ...] = (),
    dataset: Path | None = None,
    more: tuple[str, ...] = (),
    **told,
):
    """Trains; the result, and the seconds from the failure on."""
    log = dataset or folder.with_name("log.csv")
    if not log.exists():
        log.write_text("user_id,item_id,rating,timestamp\n" + rows_of_log())
    command = "-m", "tests.cli.on_several", json.dumps(told), "train", *OPTIONS, *more
    command += "--dataset", str(log)
    done = torchrun(number, *options, *command, "--run-dir", str(folder))
    failed = re.search(r"FAILS ([0-9.]+)", done.stderr)
    return done, time.time() - float(failed[1]) if failed else 0.0


def rows_of_log() -> str:
    """60 users with 12 events each, in 4 batches."""
    rng = np.random.default_rng(0)
    items = np.argsort(rng.random((60, 50)), axis=1)[:, :12]
    return "".join(
        f"{user},{item},{rng.integers(1, 6)},{time}\n"
        for user, own in enumerate(items)
        for time, item in enumerate(own)
    )


def errors(done) -> list[str]:
    """The lines of errors, without the summary of torchrun's own; no other traceback."""
    assert done.stderr.count("Traceback") == (done.returncode != 0), done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("Error: ")]


def parameters(folder: Path):
    return load_tensors(folder / "model.safetensors")[0]


def assert_same(one: Path, other: Path) -> None:
    """The same model, bit by bit, with the same records."""
    found, expected = parameters(one), parameters(other)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert losses(one) == losses(other)


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    done, _ = start(folder)
    assert done.returncode == 0, done.stderr
    assert errors(done) == []
    # The first process alone prints.
    assert done.stdout.count("Test split, evaluated once") == 1
    assert len(losses(folder)) == 3
    assert (folder / "results.json").exists()
    return folder


# In the second epoch, and before the first one.
@pytest.mark.parametrize(
    "fails",
    [
        (1, "step", 6, KILL),
        (0, "saving", 2, KILL),
        pytest.param((0, "counting", 1, KILL), marks=pytest.mark.slow),
    ],
    ids=lambda fails: f"{fails[0]} {fails[1]}",
)
def test_a_killed_process_ends_all_and_the_same_command_goes_on(undisturbed, tmp_path, fails):
    folder = tmp_path / "run"
    done, seconds = start(folder, fails=fails)
    assert done.returncode != 0
    (line,) = errors(done)
    assert line.startswith(f"Error: process {fails[0]} of 2 is gone, so all have stopped.")
    assert "the same command" in line
    assert "torchrun --max-restarts" in line
    assert 0 < seconds < MOST_SECONDS
    assert not (folder / "model.safetensors").exists()
    done, _ = start(folder)
    assert done.returncode == 0, done.stderr
    assert f"Resuming {folder}" in done.stdout
    assert_same(folder, undisturbed)
    if fails[1] != "step":
        return
    done, _ = start(folder)  # now that it has results
    assert done.returncode != 0
    (line,) = errors(done)
    assert f"{folder} exists and is not empty" in line
    assert_same(folder, undisturbed)


def test_torchrun_restarts(undisturbed, tmp_path):
    folder = tmp_path / "run"
    done, _ = start(folder, options=("--max-restarts=1",), fails=(1, "validation", 3, KILL))
    assert done.returncode == 0, done.stderr
    assert len(errors(done)) == 1
    assert done.stdout.count(f"Resuming {folder}") == 1
    assert_same(folder, undisturbed)


def test_resumes_with_another_number_of_processes(undisturbed, tmp_path):
    folder = tmp_path / "run"
    done, seconds = start(folder, 4, fails=(2, "step", 6, KILL))
    assert errors(done)[0].startswith("Error: process 2 of 4 is gone")
    assert len(errors(done)) == 1
    assert 0 < seconds < MOST_SECONDS
    assert losses(folder) == pytest.approx(losses(undisturbed)[:1], rel=1e-5)
    command = sys.executable, "-m", "emorec", "train", "--resume", str(folder)
    subprocess.run(command, check=True, capture_output=True)
    assert losses(folder) == pytest.approx(losses(undisturbed), rel=1e-5)


class TestAllStop:
    def test_if_the_first_cannot_write(self, tmp_path):
        folder = tmp_path / "run"
        done, seconds = start(folder, fails=(0, "saving", 2, "disk"))
        assert done.returncode != 0
        (line,) = errors(done)
        assert "checkpoint-graph.safetensors cannot be written" in line
        assert "what was there before stays" in line
        assert 0 < seconds < MOST_SECONDS
        _, about = load_tensors(folder / "checkpoint-graph.safetensors")
        assert len(about["records"]) == 1
        assert not list(folder.glob("*.tmp"))

    @pytest.mark.parametrize(
        ("second", "what"),
        [(["--set", "graph.learning_rate=0.5"], "settings"), (["--dataset", "{}"], "data")],
        ids=["settings", "data"],
    )
    def test_if_they_have_not_the_same(self, tmp_path, second, what):
        log = tmp_path / "other.csv"
        rows = "".join(f"{n % 40},{n * 7 % 90},{n % 5 + 1},{n}\n" for n in range(2000))
        log.write_text("user_id,item_id,rating,timestamp\n" + rows)
        folder = tmp_path / "run"
        done, _ = start(folder, second=[each.format(log) for each in second])
        assert done.returncode != 0
        (line,) = errors(done)
        assert line.startswith(f"Error: process 1 of 2 has other {what} than process 0; start all")
        assert not (folder / "checkpoint-graph.safetensors").exists()

    @pytest.mark.parametrize("rank", [0, 1])
    def test_if_the_others_cannot_be_reached(self, tmp_path, rank):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        started = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "emorec", "train", *OPTIONS, "--set=training.timeout=2"),
                *("--run-dir", str(tmp_path / "run")),
            ],
            env={**os.environ, **place, "MASTER_PORT": ["29581", "1"][rank]},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert time.monotonic() - started < MOST_SECONDS
        assert [line for line in done.stderr.splitlines() if line] == [
            [
                "Error: process 0 of 2 waited 2 s at 127.0.0.1:29581, and not all came; is "
                "torchrun running on every machine?",
                "Error: process 1 of 2 cannot reach 127.0.0.1:1, where all meet (waited 2 s); "
                "check --rdzv-endpoint, and that its port is open",
            ][rank]
        ]
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow  # torchrun waits for half a minute before it kills what does not answer
    def test_if_one_does_not_answer(self, tmp_path):
        done, seconds = start(tmp_path / "run", fails=(1, "step", 3, "SIGSTOP"))
        assert done.returncode != 0
        assert errors(done)[0].startswith("Error: process 1 of 2 is gone")
        assert 60 < seconds < 60 + 30 + MOST_SECONDS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "several processes need --run-dir DIR"),
        (
            ("--run-dir", "nowhere", "--device", "cuda:1"),
            "training.device is 'cuda:1', which several processes would share",
        ),
        (("--continue", "run", "--events", "file"), "--continue runs in one process"),
    ],
)
def test_refuses(monkeypatch, options, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_fails(train, *options, message=message)


def test_an_interrupt_is_told_once(tmp_path):
    root = Path(__file__).resolve().parents[2]
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "emorec", "train", *OPTIONS, "--epochs", "1000"),
            *("--set=training.patience=1000", "--run-dir", str(folder)),
        ],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
    _, stderr = process.communicate(timeout=60)
    assert process.returncode != 0
    assert stderr.count("Stopped. All finished epochs are saved; resume with") == 1
