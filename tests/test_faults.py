"""What is lost when the disk fails at any step: nothing."""

from __future__ import annotations

import shutil
import sys
import urllib.request
import warnings
from pathlib import Path

import pytest
from hypothesis import settings

from emorec import EmoRec, cli
from emorec.config import load_config
from emorec.data.download import download
from emorec.storage.tensors import load_tensors
from emorec.study import Goal, Study
from tests.cli.commands import TINY, call, log_lines, write_log
from tests.faults import file_limit, left_behind, try_all
from tests.operations import LOG, command, files_of, fitted, outputs_of, run_of, trying

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

IS_SHORT = settings.default.max_examples == 100
"""Unlike with the profile "fuzz", of slow commands some steps alone are tried."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models, and folders: with nothing in it, and with a run of the first."""
    old, new = fitted(0), fitted(1)
    folder = tmp_path_factory.mktemp("models")
    (folder / "empty").mkdir()
    old.save(folder / "old" / "run")
    return old, new, folder


def check(counts):
    print(counts)
    assert counts.tried > 0 and not counts.lost, counts


class TestRuns:
    @pytest.mark.parametrize("template", ["empty", "old"])
    def test_saving(self, models, tmp_path, template):
        _, new, folder = models
        act = trying(lambda copy: new.save(copy / "run"))
        check(try_all(folder / template, tmp_path, act, run_of, every=2 if IS_SHORT else 1))

    def test_saving_where_files_cannot_grow(self, models, tmp_path):
        old, new, folder = models
        old.save(tmp_path / "run")
        before = run_of(tmp_path)
        largest = max(path.stat().st_size for path in (folder / "old" / "run").iterdir())
        for size in (*range(0, largest, 1 + largest // 12), largest - 1):
            with file_limit(size), pytest.raises(OSError, match=r"cannot be written|too large"):
                new.save(tmp_path / "run")
            assert run_of(tmp_path) == before and not left_behind(tmp_path)
        EmoRec.load(tmp_path / "run")
        new.save(tmp_path / "run")
        assert run_of(tmp_path) != before

    @pytest.mark.slow
    @pytest.mark.parametrize("template", ["new", "checkpoint"])
    def test_training(self, tmp_path, template):
        (tmp_path / "template").mkdir()
        write_log(tmp_path / "template" / "log.csv", log_lines())
        resume = command(cli.train, "--resume", "FOLDER/run", "--quiet")
        train = command(
            cli.train, "--dataset", "FOLDER/log.csv", "--run-dir", "FOLDER/run", "--epochs", 1,
            "--quiet", *TINY,
        )  # fmt: skip
        if template == "checkpoint":
            assert not train(tmp_path / "template")
            train = command(cli.train, "--resume", "FOLDER/run", "--epochs", 2, "--quiet")

        def again(folder):
            """Training goes on, if it has begun."""
            error = train(folder)
            return resume(folder) if "or use --resume" in error else error

        def state(folder):
            """The parameters of a run that loads, if there is one; a checkpoint is whole."""
            if (folder / "run" / "checkpoint.safetensors").exists():
                load_tensors(folder / "run" / "checkpoint.safetensors")
            if not (folder / "run" / "model.safetensors").exists():
                return None
            model = EmoRec.load(folder / "run").model
            return {name: each.tolist() for name, each in model.state_dict().items()}

        every = 23 if IS_SHORT else 1
        check(try_all(tmp_path / "template", tmp_path, train, state, every, again))

    @pytest.mark.slow
    def test_study(self, tmp_path):
        pytest.importorskip("optuna")
        pytest.importorskip("matplotlib")
        (tmp_path / "template").mkdir()
        write_log(tmp_path / "template" / "log.csv", log_lines())
        space = tmp_path / "space.toml"
        space.write_text("[training]\nbatch_size = {low = 8, high = 16}\n")
        act = command(
            cli.main, "tune", "--study", "FOLDER/study", "--dataset", "FOLDER/log.csv",
            "--space", space, "--preset", "emo-sage-thp", "--trials", 1, "--set", "split.n=2",
            "--set", "training.epochs=1", "--set", "loss.ranking=bpr",
        )  # fmt: skip

        def state(folder):
            """Whether the study that another process opens has the trial and its settings."""
            copy = tmp_path / "opened"
            shutil.rmtree(copy, ignore_errors=True)
            if not (folder / "study" / "best.toml").exists():
                return False
            load_config(file=folder / "study" / "best.toml")
            shutil.copytree(folder / "study", copy)
            config = load_config(file=copy / "base.toml")
            goal = (copy / "goal.txt").read_text().split()
            study = Study(copy, config, space.read_text(), Goal(goal[0], float(goal[1])))
            return "finished" in set(study.trials()["state"])

        every = 5 if IS_SHORT else 1
        # Optuna ends with a RuntimeError where it cannot remove the lock that it made.
        check(try_all(tmp_path / "template", tmp_path, act, state, every, without=".lock"))

    @pytest.mark.slow
    def test_retraining(self, models, tmp_path):
        pytest.importorskip("sqlalchemy")
        from emorec.service.store import Event, Store

        old, _, folder = models
        template = shutil.copytree(folder / "old", tmp_path / "template")
        store = Store(f"sqlite:///{template / 'events.db'}")
        store.add([
            [Event(user, LOG.items.ids[(7 * n) % 40], (0, 0, 3, 1)[n % 4], 2 * 10**15 + n)
             for user in LOG.users.ids]
            for n in range(10)
        ])  # fmt: skip
        store.close()
        before = run_of(template)

        def act(folder):
            name = "next" if not (folder / "next").exists() else "after"
            result = call(cli.main, "retrain", folder / "run", "--run-dir", folder / name)
            if result.exit_code in (0, 1) and "Error" not in result.stderr:
                return ""
            is_verdict = "is worse than" in result.stderr
            return "" if is_verdict else result.stderr

        def state(folder):
            """Whether there is a new run, which loads; the old one is what it was."""
            assert run_of(folder) == before
            new = [each for each in (folder / "next", folder / "after")
                   if (each / "results.json").exists()]  # fmt: skip
            for each in new:
                EmoRec.load(each)
            return bool(new)

        every = 41 if IS_SHORT else 1
        check(try_all(template, tmp_path, act, state, every))


class TestFiles:
    @pytest.fixture
    def template(self, tmp_path):
        (tmp_path / "template").mkdir()
        write_log(tmp_path / "template" / "log.csv", log_lines())
        return tmp_path / "template"

    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
    @pytest.mark.parametrize("is_new", [True, False])
    def test_convert(self, template, tmp_path, suffix, is_new):
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
        if not is_new:
            (template / f"out.{suffix}").write_text("old")
        act = command(
            cli.main, "data", "convert", "FOLDER/log.csv", "--output", f"FOLDER/out.{suffix}"
        )
        check(try_all(template, tmp_path, act, files_of))

    def test_split(self, template, tmp_path):
        act = command(
            cli.main, "data", "split", "FOLDER/log.csv", "--output", "FOLDER/out",
            "--set", "split.n=2",
        )  # fmt: skip
        check(try_all(template, tmp_path, act, outputs_of, every=3 if IS_SHORT else 1))

    def test_prepare(self, template, tmp_path):
        pytest.importorskip("duckdb")
        pytest.importorskip("pyarrow")
        act = command(
            cli.main, "data", "prepare", "FOLDER/log.csv", "--output", "FOLDER/out", "--parts", 2
        )
        check(try_all(template, tmp_path, act, outputs_of, every=3 if IS_SHORT else 1))

    def test_download(self, template, tmp_path, monkeypatch):
        source = tmp_path / "source"
        source.write_bytes(b"content" * 1000)

        class Opener:
            def open(self, request, timeout):
                return urllib.request.urlopen(source.as_uri())

        monkeypatch.setattr("emorec.data.download._OPENER", Opener())

        def act(folder):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                download("https://example.org/a", folder / "data" / "a.zip", progress=False)

        check(try_all(template, tmp_path, trying(act, ValueError), downloaded))


def downloaded(folder):
    """A download with the digest that was recorded for it, or none that would be used."""
    path = folder / "data" / "a.zip"
    return path.read_bytes() if path.exists() else None


class TestLists:
    @pytest.fixture(scope="class")
    def template(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("lists")
        data = write_log(folder / "log.csv", log_lines())
        result = call(
            cli.train, "--dataset", data, "--epochs", 1, "--run-dir", folder / "run", *TINY
        )
        assert result.exit_code == 0, result.output
        (folder / "template").mkdir()
        return folder / "template"

    def lists_as(self, suffix, template):
        """The command that writes a file of lists."""
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
        return command(
            cli.recommend, template.parent / "run", "--all-users", "-k", 3,
            "--output", f"FOLDER/out.{suffix}",
        )  # fmt: skip

    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
    def test_one_file(self, template, tmp_path, suffix):
        check(try_all(template, tmp_path, self.lists_as(suffix, template), files_of))

    def test_parts(self, template, tmp_path):
        act = command(
            cli.recommend, template.parent / "run", "--all-users", "-k", 3,
            "--output", "FOLDER/out", "--format", "csv", "--parts", 3,
        )  # fmt: skip
        goal = tmp_path / "goal"
        goal.mkdir()
        assert not act(goal)
        whole = {name: text for name, text in files_of(goal).items() if "part-" in name}

        def state(folder):
            """Every file that is there is whole; how many there are depends on the step."""
            found = {name: text for name, text in files_of(folder).items() if "part-" in name}
            assert found.items() <= whole.items()
            return found == whole

        check(try_all(template, tmp_path, act, state, every=4 if IS_SHORT else 1))

    def test_export(self, template, tmp_path):
        act = command(cli.main, "export", template.parent / "run", "--output", "FOLDER/out")
        check(try_all(template, tmp_path, act, outputs_of, every=3 if IS_SHORT else 1))

    @pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
    def test_where_files_cannot_grow(self, template, tmp_path, suffix):
        act = self.lists_as(suffix, template)
        out = Path(tmp_path / f"out.{suffix}")
        assert not act(tmp_path)
        whole = out.read_bytes()
        out.write_text("old")
        for size in (0, 1, 5, len(whole) // 2, len(whole) - 1):
            with file_limit(size):
                error = act(tmp_path)
            assert str(out) in error and out.read_text() == "old"
            assert not left_behind(tmp_path)
        assert not act(tmp_path) and out.read_bytes() == whole
