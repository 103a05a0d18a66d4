"""emorec-train on several processes and a prepared log, of which each has its own users' events."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="needs DuckDB, the extra large")
pytest.importorskip("pyarrow", reason="needs pyarrow, the extra large")
from emorec.cli import train  # noqa: E402
from emorec.data.preparing import prepare_log  # noqa: E402
from tests.cli.commands import call  # noqa: E402
from tests.cli.test_several_processes import (  # noqa: E402
    KILL,
    MOST_SECONDS,
    OPTIONS,
    assert_same,
    errors,
    losses,
    rows_of_log,
    start,
)

TIME_SPLIT = ("--set", "split.method=time", "--set", "split.quantile=0.8")


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    file = folder / "log.csv"
    file.write_text("user_id,item_id,rating,timestamp\n" + rows_of_log())
    prepare_log([file], folder / "log", parts=3)  # which two processes do not divide
    return folder / "log"


def shared(folder: Path, log: Path, number: int = 2, *options: str, **told):
    """Trains on the prepared log; the result, and the seconds from a failure on."""
    return start(folder, number, dataset=log, more=options, no_others=True, **told)


@pytest.fixture(scope="module")
def undisturbed(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    done, _ = shared(folder, log)
    assert done.returncode == 0, done.stderr
    assert "60 users, 50 items, 720 interactions" in done.stdout
    assert done.stdout.count("Test split, evaluated once") == 1
    return folder


@pytest.mark.parametrize("options", [(), TIME_SPLIT], ids=["last events", "time"])
def test_the_run_is_that_of_one_process(log, undisturbed, tmp_path, options):
    found = undisturbed
    if options:
        found = tmp_path / "several"
        done, _ = shared(found, log, 4, *options)
        assert done.returncode == 0, done.stderr
    one = tmp_path / "one"
    assert call(train, *OPTIONS, *options, "--dataset", log, "--run-dir", one).exit_code == 0
    assert losses(found) == pytest.approx(losses(one), rel=1e-5)
    results, expected = (
        json.loads((folder / "results.json").read_text())["models"]["emorec-graph"]
        for folder in (found, one)
    )
    assert results == pytest.approx(expected, rel=1e-3, nan_ok=True)


def test_goes_on_after_a_failure(log, undisturbed, tmp_path):
    folder = tmp_path / "run"
    done, seconds = shared(folder, log, fails=(1, "step", 6, KILL))
    assert errors(done)[0].startswith("Error: process 1 of 2 is gone, so all have stopped.")
    assert 0 < seconds < MOST_SECONDS
    done, _ = shared(folder, log)
    assert done.returncode == 0, done.stderr
    assert f"Resuming {folder}" in done.stdout
    assert_same(folder, undisturbed)


def test_a_checkpoint_must_be_seen_by_all(log, tmp_path):
    folder = tmp_path / "run"
    done, _ = shared(folder, log, fails=(1, "step", 6, KILL))
    assert done.returncode != 0
    before = losses(folder)
    elsewhere = ["--run-dir", str(tmp_path / "elsewhere")]
    done, _ = shared(folder, log, second=elsewhere)
    assert done.returncode != 0
    (line,) = errors(done)
    name = "elsewhere/checkpoint-graph.safetensors"
    assert f"process 1 of 2 does not see {tmp_path / name}, from which the first one" in line
    assert losses(folder) == before
    assert not (tmp_path / "elsewhere").exists()


class TestAllStop:
    @pytest.mark.parametrize("what", ["is damaged", "is missing"])
    def test_if_a_part_cannot_be_read(self, log, tmp_path, what):
        shutil.copytree(log, tmp_path / "log")
        part = tmp_path / "log" / "part-0001.parquet"
        if what == "is missing":
            part.unlink()
        else:
            part.write_bytes(part.read_bytes()[:-9])
        done, _ = shared(tmp_path / "run", tmp_path / "log")
        assert done.returncode != 0
        (line,) = errors(done)
        assert "part-0001.parquet" in line and what in line
        assert not (tmp_path / "run").exists()

    def test_if_they_have_not_the_same(self, log, tmp_path):
        done, _ = shared(tmp_path / "run", log, second=["--dataset", "other"])
        assert done.returncode != 0
        (line,) = errors(done)
        assert line.startswith("Error: process 1 of 2 has other data than process 0; start all")
        assert not (tmp_path / "run").exists()
