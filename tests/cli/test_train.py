from __future__ import annotations

import errno
import json
import re
import sys
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import emorec.storage.tensors
from emorec import cli, updating
from emorec.cli import training
from emorec.config import load_config
from emorec.processes import World
from emorec.recommender import EmoRec
from tests.cli.commands import TINY, assert_fails, call, log_lines, write_log


class TestTrain:
    def test_prints_the_data_epochs_results_and_where_the_run_is(self, trained):
        folder, result = trained
        for text in (
            "6 users, 12 items, 72 interactions",
            "epoch   1",
            "epoch   2",
            "ndcg 0.",
            "emorec",
            "MostPop",
            "ItemKNN",
            f"The run is in {folder}",
            f"emorec-recommend {folder} --user 'Zoë 0'",  # fit to be pasted
        ):
            assert text in result.stdout, text
        assert "|" not in result.stderr  # no progress bars where nobody watches

    def test_says_what_the_k_core_drops(self, log, tmp_path):
        lines = [*log_lines(), "Zoë 0,東京 99,5,9"]
        data = write_log(tmp_path / "more.csv", lines)
        result = call(
            cli.train, "--dataset", data, "--epochs", 1, "--run-dir", tmp_path / "run", *TINY,
            "--set", "data.min_item_events=2",
        )  # fmt: skip
        assert "1 rows of rare users and items are dropped (k-core)\n" in result.stdout

    def test_says_what_a_gap_leaves_out(self, log, tmp_path):
        result = call(
            cli.train, "--dataset", log, "--epochs", 1, "--run-dir", tmp_path / "run", *TINY,
            "--set", "split.method=time", "--set", "split.days=0.001", "--set", "split.gap=1",
        )  # fmt: skip
        # Two of six users' twelve steps of a minute each.
        assert "12 rows are left out in the gaps before the cuts\n" in result.stdout
        assert "k-core" not in result.stdout

    def test_the_run_folder(self, trained):
        folder, _ = trained
        names = {path.name for path in folder.iterdir()}
        assert names >= {
            "config.toml", "vocabulary.json", "interactions.safetensors", "model.safetensors",
            "checkpoint.safetensors", "metrics.jsonl", "results.json", "report.html",
            "versions.json",
        }  # fmt: skip
        assert not [name for name in names if name.endswith(".tmp")]
        config = tomllib.loads((folder / "config.toml").read_text())
        assert config["training"]["epochs"] == 2
        assert config["training"]["threads"] == 1
        assert config["model"] == {**config["model"], "embedding_size": 8, "backend": "torch"}
        assert config["split"]["n"] == 2

    def test_the_report_has_the_command_without_the_machines_paths(self, trained, log, tmp_path):
        folder, _ = trained
        text = (folder / "report.html").read_text()
        assert (
            "<pre>emorec-train --dataset log.csv --backend torch --epochs 2 --embedding-size 8 "
            "--threads 1 --set split.n=2 --run-dir run</pre>"
        ) in text
        assert str(folder.parent) not in text
        assert re.search(r"<dt>date</dt><dd>\d{4}-\d\d-\d\d \d\d:\d\d UTC</dd>", text)

    def test_curves_for_tensorboard(self, log, tmp_path):
        pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
        run, curves = tmp_path / "run", tmp_path / "curves"
        options = "--epochs", 1, "--run-dir", run, *TINY
        call(cli.train, "--dataset", log, "--tensorboard", curves, *options)
        call(cli.train, "--resume", run, "--epochs", 2, "--tensorboard", curves)
        assert len(list(curves.iterdir())) == 2

    def test_curves_are_written_by_epoch(self, log, tmp_path, monkeypatch):
        writers = []

        class Writer:
            def __init__(self, folder):
                self.folder, self.steps = folder, []
                writers.append(self)

            def add_scalar(self, name, value, epoch):
                self.steps.append((name.partition("/")[2], epoch))

            def flush(self):
                self.steps.append("flush")

            def close(self):
                self.steps.append("close")

        stand_in = SimpleNamespace(SummaryWriter=Writer)
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
        options = "--epochs", 1, "--run-dir", tmp_path / "run", *TINY, "--set", "training.refit=0"
        call(cli.train, "--dataset", log, "--tensorboard", tmp_path / "curves", *options)
        (writer,) = writers
        assert writer.folder == str(tmp_path / "curves")
        assert ("loss", 1) in writer.steps and ("ndcg_likes", 1) in writer.steps
        assert writer.steps[-1] == "close" and writer.steps[-2] == "flush"

    def test_without_tensorboard_nothing_is_started(self, log, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
        assert_fails(
            cli.train, "--dataset", log, "--tensorboard", tmp_path / "curves",
            "--run-dir", tmp_path / "run", *TINY,
            message=r'need the package tensorboard: pip install "emorec\[tensorboard\]"',
        )  # fmt: skip
        assert not (tmp_path / "run").exists()

    def test_flags_files_and_settings(self, log, tmp_path):
        file = tmp_path / "my.toml"
        file.write_text('preset = "diff-gat"\n[training]\nepochs = 9\nbatch_size = 3\n')
        result = call(
            cli.train, "--config", file, "--dataset", log, "--run-dir", tmp_path / "run",
            "--epochs", 1, "--learning-rate", 0.5, "--seed", 7, *TINY, "--set", "graph.heads=4",
            "--quiet",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
        assert config["preset"] == "diff-gat"
        assert config["training"]["epochs"] == 1  # the flag wins over the file
        assert config["training"]["batch_size"] == 3
        assert config["training"]["learning_rate"] == 0.5
        assert config["training"]["seed"] == 7
        assert config["graph"]["heads"] == 4

    def test_titles_of_items(self, log, tmp_path):
        items = write_log(
            tmp_path / "items.csv",
            [f"東京 {number},Tower {number}" for number in range(1, 13)],
            "item_id,title",
        )
        arguments = ["--dataset", log, "--items", items, "--epochs", 1, "--run-dir"]
        result = call(cli.train, *arguments, tmp_path / "run", *TINY)
        assert result.exit_code == 0, result.output
        assert (
            f"note: {items}: 1 of 13 items has no title, such as '東京 0'\n"
            f"note: {items}: 1 item is not in the log and is a cold item, such as '東京 12'; lists "
            "hold them if asked to (cold=True, --cold)\n"
        ) in result.stderr
        items.unlink()
        result = call(cli.train, "--resume", tmp_path / "run", "--epochs", 2)
        assert result.exit_code == 0, result.output
        assert EmoRec.load(tmp_path / "run", "torch").titles == {
            f"東京 {number}": f"Tower {number}" for number in range(1, 13)
        }
        arguments = ["--user", "Zoë 1", "--allow-seen", "-k", 12, "--format", "csv"]
        lines = call(cli.recommend, tmp_path / "run", *arguments).stdout.splitlines()
        assert lines[0] == "user,rank,item,title,score,liked,source"
        assert any(",東京 3,Tower 3," in line for line in lines)
        assert any(",東京 0,," in line for line in lines)
        assert not any(",東京 12," in line for line in lines)

    def test_titles_that_cannot_be_read(self, log, tmp_path):
        assert_fails(
            cli.train, "--dataset", log, "--items", tmp_path / "items.csv", "--run-dir",
            tmp_path / "run", *TINY, message="items.csv: .*there is no such file",
        )  # fmt: skip
        assert_fails(
            cli.train, "--dataset", log, "--items", log, "--set", "data.title_column=item_id",
            "--run-dir", tmp_path / "run", *TINY,
            message="data.title_column is 'item_id', which must be a column of data.items other",
        )  # fmt: skip
        assert not (tmp_path / "run" / "config.toml").exists()

    def test_a_preset_that_the_file_contradicts(self, log, tmp_path):
        file = tmp_path / "my.toml"
        file.write_text('preset = "diff-gat"\n')
        assert_fails(
            cli.train, "--config", file, "--preset", "emo-gat", "--dataset", log,
            message="--preset emo-gat contradicts .*my.toml, which has preset diff-gat",
        )  # fmt: skip

    def test_options_and_settings_count_all_at_once(self, log, tmp_path):
        arguments = ["--dataset", log, "--epochs", 1, "--run-dir", tmp_path / "run", *TINY]
        arguments += ["--embedding-size", 9, "--set", "sequence.heads=3"]
        assert call(cli.train, *arguments).exit_code == 0

    def test_a_default_folder_is_named_after_data_and_preset(self, log, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = call(cli.train, "--dataset", log, "--epochs", 1, "--preset", "diff-gat", *TINY)
        assert result.exit_code == 0, result.output
        (folder,) = (tmp_path / "runs").iterdir()
        assert re.fullmatch(r"log-diff-gat-\d{8}-\d{6}", folder.name)

    def test_runs_of_one_second_have_folders_of_their_own(self, log, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(training.time, "strftime", lambda form: "20260102-030405")
        arguments = ["--dataset", log, "--epochs", 1, "--preset", "diff-gat", *TINY]
        for name in ("log-diff-gat-20260102-030405", "log-diff-gat-20260102-030405-2"):
            assert f"The run is in {Path('runs', name)}\n" in call(cli.train, *arguments).stdout
            assert (tmp_path / "runs" / name / "results.json").exists()

    def test_no_folder_is_left_where_nothing_can_be_read(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        data = write_log(tmp_path / "log.csv", ["a,b,five,1000"])
        assert_fails(cli.train, "--dataset", data, message="'five' is not a finite number")
        assert not any((tmp_path / "runs").iterdir())

    @pytest.mark.parametrize(
        ("error", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(errno.EPIPE, "gone"), 1)]
    )
    def test_stopped_while_it_evaluates(self, log, tmp_path, monkeypatch, error, code):
        def stop(*_):
            raise error

        arguments = ["--dataset", log, "--epochs", 1, "--run-dir", tmp_path / "run", *TINY]
        with monkeypatch.context() as patch:
            patch.setattr(updating, "compare_runs", stop)
            result = call(cli.train, *arguments)
        assert result.exit_code == code
        assert f"emorec-train --resume {tmp_path / 'run'}" in result.stderr
        assert "Test split" in call(cli.train, "--resume", tmp_path / "run").stdout

    def test_files_are_json_where_nothing_can_be_measured(self, tmp_path):
        lines = [",".join([*line.split(",")[:2], "5", line.split(",")[3]]) for line in log_lines()]
        data = write_log(tmp_path / "log.csv", lines)  # nobody dislikes anything
        arguments = ["--dataset", data, "--epochs", 1, "--run-dir", tmp_path / "run", *TINY]
        assert call(cli.train, *arguments).exit_code == 0

        def refuse(name):
            raise AssertionError(f"{name} is no JSON")

        texts = [(tmp_path / "run" / "results.json").read_text()]
        texts += (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        texts.append(call(cli.evaluate, tmp_path / "run", "--json").stdout)
        for text in texts:
            json.loads(text, parse_constant=refuse)
        assert json.loads(texts[0])["models"]["emorec"]["recall_dislikes"] is None

    def test_an_existing_run_is_not_overwritten(self, trained, log):
        folder, _ = trained
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert_fails(
            cli.train, "--dataset", log, "--run-dir", folder, *TINY,
            message="exists and is not empty; choose another --run-dir, or use --resume",
        )  # fmt: skip
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    def test_processes_do_not_go_on_with_other_settings(self, trained):
        other = load_config("emorec", settings=("training.epochs=3",))
        message = "holds a run with other settings; choose another --run-dir, or use --resume .*run"
        with pytest.raises(click.UsageError, match=message):
            training._begun(other, trained[0], World())

    def test_an_empty_folder_may_be_used(self, log, tmp_path):
        (tmp_path / "empty").mkdir()
        arguments = ["--dataset", log, "--epochs", 1, "--run-dir", tmp_path / "empty", *TINY]
        assert call(cli.train, *arguments).exit_code == 0

    def test_all_events_at_one_moment(self, tmp_path):
        lines = [",".join([*line.split(",")[:3], "1000"]) for line in log_lines()]
        data = write_log(tmp_path / "log.csv", lines)
        arguments = ["--dataset", data, "--epochs", 1, "--run-dir", tmp_path / "run", *TINY]
        result = call(cli.train, *arguments)
        assert result.exit_code == 0, result.output  # the order of the log decides
        assert "100.0% of those with a test split) have events of equal time" in result.stdout

    def test_warnings_are_notes_and_stay_in_the_command(self, tmp_path):
        rules = tmp_path / "rules.toml"
        rules.write_text('explicit_positive = "rating > 2"\nimplicit_negative = "rating == 77"\n')
        data = write_log(tmp_path / "log.csv", log_lines())
        before = warnings.showwarning
        result = call(
            cli.train, "--dataset", data, "--epochs", 1, "--run-dir", tmp_path / "run", *TINY,
            "--set", f"data.rules={rules}",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert re.search(r"note: .*matches no row: implicit_negative", result.stderr)
        rules.unlink()  # the run has a copy
        events = write_log(tmp_path / "events.csv", ["eve,東京 3,3,5000"])
        lists = call(cli.recommend, tmp_path / "run", "--user", "eve", "--events", events)
        assert "model" in lists.stdout
        assert warnings.showwarning is before


class TestFullDisk:
    @pytest.mark.parametrize("number", [1, 2, 3])  # interactions, checkpoint, the next file
    def test_says_so_and_loses_nothing(self, log, tmp_path, monkeypatch, number):
        save, calls = emorec.storage.tensors.save_file, []

        def full_at_last(*args, **options):
            calls.append(args)
            if len(calls) >= number:
                raise OSError(28, "No space left on device")
            save(*args, **options)

        folder = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(emorec.storage.tensors, "save_file", full_at_last)
            assert_fails(
                cli.train, "--dataset", log, "--epochs", 2, "--run-dir", folder, *TINY,
                message="No space left on device",
            )  # fmt: skip
        assert not list(folder.glob(".*.tmp"))
        if number > 1:  # room has been made
            result = call(cli.train, "--resume", folder)
            assert result.exit_code == 0, result.output
            assert "The run is in" in result.stdout
