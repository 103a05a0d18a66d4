from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import emorec.files
from emorec import EmoRec, Interactions, cli, training
from emorec.files import load_tensors
from tests.small import small_config

HEADER = "user_id,item_id,rating,timestamp"
TINY = ("--backend", "torch", "--embedding-size", "8", "--threads", "1", "--set", "split.n=2")


def log_lines(num_users=6, num_items=12, events=12):
    """Rows of a log; users' and items' ids hold a space and letters beyond ASCII."""
    rng = np.random.default_rng(0)
    return [
        f"Zoë {user},東京 {rng.integers(num_items)},{1 + (user + step) % 5},{1000 + 60 * step}"
        for step in range(events)
        for user in range(num_users)
    ]


def write_log(path, lines, header=HEADER):
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def call(command, *arguments):
    """The result of a command; anything but a clean exit fails the test here."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result


def assert_fails(command, *arguments, message, code=(1, 2)):
    result = call(command, *arguments)
    assert result.exit_code in code, result.output
    assert re.search(message, result.stderr), result.stderr
    return result


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path / "log.csv", log_lines())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run and what its command printed."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_log(folder / "log.csv", log_lines())
    result = call(cli.train, "--dataset", data, "--epochs", 2, "--run-dir", folder / "run", *TINY)
    assert result.exit_code == 0, result.output
    return folder / "run", result


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

    def test_a_preset_that_the_file_contradicts(self, log, tmp_path):
        file = tmp_path / "my.toml"
        file.write_text('preset = "diff-gat"\n')
        assert_fails(
            cli.train, "--config", file, "--preset", "emo-gat", "--dataset", log,
            message="--preset emo-gat does not fit .*my.toml, which is of preset diff-gat",
        )  # fmt: skip

    def test_a_default_folder_is_named_after_data_and_preset(self, log, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = call(cli.train, "--dataset", log, "--epochs", 1, "--preset", "diff-gat", *TINY)
        assert result.exit_code == 0, result.output
        (folder,) = (tmp_path / "runs").iterdir()
        assert re.fullmatch(r"log-diff-gat-\d{8}-\d{6}", folder.name)

    def test_an_existing_run_is_not_overwritten(self, trained, log):
        folder, _ = trained
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert_fails(
            cli.train, "--dataset", log, "--run-dir", folder, *TINY,
            message="is there already and is not empty; name another --run-dir, or use --resume",
        )  # fmt: skip
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

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
        assert "100.0% of those with a test part) have events of equal time" in result.stdout

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
        assert warnings.showwarning is before


def edited(column, value, row=4):
    lines = log_lines()
    cells = lines[row].split(",")
    cells[column] = value
    lines[row] = ",".join(cells)
    return "\n".join([HEADER, *lines])


def with_column(column, value):
    lines = []
    for line in log_lines():
        cells = line.split(",")
        cells[column] = value
        lines.append(",".join(cells))
    return "\n".join([HEADER, *lines])


WHOLE = "\n".join([HEADER, *log_lines()])
BAD_DATA = {
    "missing column": (WHOLE.replace("rating", "stars", 1), "no column 'rating'.*'stars'"),
    "unparsable time": (edited(3, "soon"), "line 6 of .*'timestamp': 'soon' is no time"),
    "NaN rating": (edited(2, "nan"), "line 6 of .*'rating': nan is no finite number"),
    "infinite rating": (edited(2, "inf"), "line 6 of .*'rating': inf is no finite number"),
    "negative time": (edited(3, "-5"), "line 6 of .*'timestamp': -5 is negative"),
    "empty file": ("", "log.csv is empty"),
    "header alone": (HEADER, "log.csv has a header and no rows"),
    "duplicate header": (WHOLE.replace("item_id", "user_id", 1), "names column 'user_id' 2 times"),
    "one user": (with_column(0, "me"), "has 1 user only; .*at least two users and two items"),
    "one item": (with_column(1, "it"), "has 1 item only; .*at least two users and two items"),
    "one event each": ("\n".join([HEADER, *log_lines(events=1)]), "no user has more than n = 2"),
}


class TestBadInput:
    def fails(self, tmp_path, *arguments, message):
        folder = tmp_path / "run"
        assert_fails(
            cli.train, *arguments, "--run-dir", folder, "--epochs", 1, *TINY, message=message
        )
        assert not folder.exists()  # nothing half done is left

    @pytest.mark.parametrize("name", BAD_DATA)
    def test_data(self, tmp_path, name):
        content, message = BAD_DATA[name]
        (tmp_path / "log.csv").write_text(content, encoding="utf-8")
        self.fails(tmp_path, "--dataset", tmp_path / "log.csv", message=message)

    def test_one_moment_cannot_be_cut(self, tmp_path):
        (tmp_path / "log.csv").write_text(with_column(3, "1000"), encoding="utf-8")
        self.fails(
            tmp_path, "--dataset", tmp_path / "log.csv", "--set", "split.method=time",
            message="test part is empty: none of .* rows is later than the 0.9 quantile",
        )  # fmt: skip

    def test_truncated_gz(self, tmp_path):
        whole = gzip.compress(WHOLE.encode())
        (tmp_path / "log.csv.gz").write_bytes(whole[: len(whole) // 2])
        self.fails(
            tmp_path, "--dataset", tmp_path / "log.csv.gz",
            message="log.csv.gz: the compressed file is truncated",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            ('explicit_positive = "rating == 77"', "no rule matches any of the 72 rows"),
            ('explicit_positive = "len(rating) > 1"', "a function call is not allowed"),
            ("explicit_positive = \"__import__('os').getcwd()\"", "function call is not allowed"),
            ('explicit_positive = "stars > 3"', "stars"),
            ('love = "rating > 3"', "love"),
        ],
    )
    def test_rules(self, log, tmp_path, rules, message):
        file = tmp_path / "rules.toml"
        file.write_text(rules)
        self.fails(tmp_path, "--dataset", log, "--set", f"data.rules={file}", message=message)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--set", "training.epoch=2"], "'training.epoch' is no setting; .*mean 'epochs'"),
            (["--set", "epochs"], "must look like section.key=value"),
            (["--batch-size", "0"], "--batch-size: training.batch_size must be at least 1, got 0"),
            (["--preset", "emogat"], "emo-gat"),
            (
                ["--preset", "diff-gat", "--set", "graph.heads=3"],
                "embedding size 8 is not a multiple of 3 heads",
            ),
            (["--device", "tpu"], "training.device 'tpu' is no device: try 'cpu' or 'cuda'"),
            (["--config", "gone.toml"], "gone.toml: cannot be read"),
            (["--epoch", "3"], "No such option"),
        ],
    )
    def test_options(self, log, tmp_path, arguments, message):
        self.fails(tmp_path, "--dataset", log, *arguments, message=message)

    def test_misspelt_key_in_a_file(self, log, tmp_path):
        file = tmp_path / "my.toml"
        file.write_text("[training]\nepoch = 3\n")
        self.fails(
            tmp_path, "--dataset", log, "--config", file,
            message="my.toml: 'training.epoch' is no setting; did you mean 'epochs'",
        )  # fmt: skip

    def test_no_such_data(self, tmp_path):
        self.fails(
            tmp_path, "--dataset", "ml-1n",
            message="'ml-1n', which is neither a file here nor a data set; the nearest is",
        )  # fmt: skip

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_no_cuda(self, log, tmp_path):
        self.fails(
            tmp_path, "--dataset", log, "--device", "cuda", message="PyTorch finds no CUDA device"
        )

    def test_no_dgl(self, log, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "dgl", None)
        arguments = ["--dataset", log, "--preset", "diff-gat", "--run-dir", tmp_path / "run"]
        message = "pip install dgl==1.1.3.*--backend torch"
        assert_fails(cli.train, *arguments, "--backend", "dgl", message=message)
        assert not (tmp_path / "run").exists()

    def test_a_learning_rate_far_too_high(self, log, tmp_path):
        assert_fails(
            cli.train, "--dataset", log, "--run-dir", tmp_path / "run", *TINY,
            "--learning-rate", "1e30", "--epochs", 3, message="lower training.learning_rate",
        )  # fmt: skip


class TestFullDisk:
    @pytest.mark.parametrize("number", [1, 2, 3])  # interactions, checkpoint, the next file
    def test_says_so_and_loses_nothing(self, log, tmp_path, monkeypatch, number):
        save, calls = emorec.files.save_file, []

        def full_at_last(*args, **options):
            calls.append(args)
            if len(calls) >= number:
                raise OSError(28, "No space left on device")
            save(*args, **options)

        folder = tmp_path / "run"
        with monkeypatch.context() as patch:
            patch.setattr(emorec.files, "save_file", full_at_last)
            assert_fails(
                cli.train, "--dataset", log, "--epochs", 2, "--run-dir", folder, *TINY,
                message="No space left on device",
            )  # fmt: skip
        assert not list(folder.glob(".*.tmp"))
        if number > 1:  # room has been made
            result = call(cli.train, "--resume", folder)
            assert result.exit_code == 0, result.output
            assert "The run is in" in result.stdout


def interrupt(monkeypatch, epoch):
    """Ctrl-C before the second batch of the n-th epoch that is run."""
    batches, epochs = training.training_batches, []

    def interrupted(*args):
        epochs.append(args)
        for number, batch in enumerate(batches(*args)):
            if len(epochs) == epoch and number == 1:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(training, "training_batches", interrupted)


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
            interrupt(patch, epoch)
            result = call(cli.train, *arguments, "--run-dir", stopped)
        assert result.exit_code == 130
        assert "Nothing is lost up to the last whole epoch" in result.stderr
        assert f"emorec-train --resume '{stopped}'" in result.stderr
        assert not (stopped / "model.safetensors").exists()
        result = call(cli.train, "--resume", stopped)
        assert result.exit_code == 0, result.output
        assert f"Going on with {stopped}" in result.stdout
        assert_same_run(whole, stopped)

    def test_a_real_process_and_a_real_signal(self, tmp_path):
        # Many small steps, so that the signal comes in the middle of an epoch; many epochs, so that
        # it does not come too late on a busy machine.
        data = write_log(tmp_path / "log.csv", log_lines(num_users=60, num_items=40, events=8))
        whole, stopped = tmp_path / "whole", tmp_path / "stopped"
        arguments = ["--dataset", data, "--epochs", 12, "--batch-size", 1, *TINY]
        arguments += ["--preset", "emo-sage-thp", "--seed", 3, "--set", "training.patience=12"]
        command = [sys.executable, "-c", "from emorec.cli import train; train()"]
        process = subprocess.Popen(
            [*command, *map(str, arguments), "--run-dir", str(stopped)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
            cwd=Path(cli.__file__).parents[1],
            # A test run in the background may ignore the signal, and its children would inherit it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert any(line.startswith("epoch   1") for line in process.stdout)
            time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 130, errors
        assert "Traceback" not in errors
        assert "Stopped. Nothing is lost" in errors
        assert 1 <= len(records(stopped)) < 12
        assert not list(stopped.glob(".*.tmp"))
        assert call(cli.train, "--resume", stopped).exit_code == 0
        call(cli.train, *arguments, "--run-dir", whole)
        assert_same_run(whole, stopped)

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
            message="only --epochs and --threads may be given",
        )  # fmt: skip

    def test_no_run_there(self, tmp_path):
        assert_fails(cli.train, "--resume", tmp_path / "gone", message="gone: no such run folder")

    def test_a_damaged_checkpoint(self, trained, tmp_path):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        path = folder / "checkpoint.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        message = "checkpoint.safetensors: is damaged"
        assert_fails(cli.train, "--resume", folder, message=message)


class TestEvaluate:
    def test_the_same_table_as_training(self, trained):
        folder, training_result = trained
        result = call(cli.evaluate, folder)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() in training_result.stdout

    def test_json(self, trained):
        folder, _ = trained
        result = call(cli.evaluate, folder, "--json", "-k", 3)
        found = json.loads(result.stdout)
        assert set(found) == {"emorec", "MostPop", "ItemKNN"}
        assert 0 <= found["emorec"]["recall_any"] <= 1
        at_ten = json.loads(call(cli.evaluate, folder, "--json").stdout)
        kept = json.loads((folder / "results.json").read_text())["models"]
        assert at_ten["emorec"]["ndcg_any"] == pytest.approx(kept["emorec"]["ndcg_any"])

    def test_aversion_changes_the_lists_of_the_model_alone(self, trained):
        one, other = (
            json.loads(call(cli.evaluate, trained[0], "--json", "--aversion", value).stdout)
            for value in (0, 50)
        )
        assert one["MostPop"] == other["MostPop"]
        assert one["emorec"] != other["emorec"]

    @pytest.mark.parametrize("value", ["-1", "nan"])
    def test_an_aversion_that_is_none(self, trained, value):
        for command, arguments in ((cli.evaluate, []), (cli.recommend, ["--user", "a"])):
            assert_fails(
                command, trained[0], *arguments, "--aversion", value,
                message=f"aversion: model.aversion must be at least 0, got {value}",
            )  # fmt: skip

    @pytest.mark.parametrize(
        "name",
        ["config.toml", "vocabulary.json", "interactions.safetensors", "model.safetensors"],
    )
    def test_a_missing_file(self, trained, tmp_path, name):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        (folder / name).unlink()
        for command, arguments in ((cli.evaluate, []), (cli.recommend, ["--user", "a"])):
            assert_fails(command, folder, *arguments, message=f"{name} is missing .the folder")

    def test_a_run_without_a_test_part(self, tmp_path):
        log = Interactions.from_columns(
            np.repeat(["a", "b"], 9), np.arange(18) % 7, [0] * 18, np.arange(18)
        )
        EmoRec(config=small_config()).fit(log, progress=False).save(tmp_path)
        assert_fails(cli.evaluate, tmp_path, message="holds no test part")


class TestRecommend:
    def test_table(self, trained):
        result = call(cli.recommend, trained[0], "--user", "Zoë 3", "-k", 2)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["user", "rank", "item", "score", "source"]
        assert len(lines) == 3
        assert all("Zoë 3" in line and "東京" in line and "model" in line for line in lines[1:])
        assert result.stderr == ""

    def test_json(self, trained):
        arguments = ["--user", "Zoë 3", "--user", "Zoë 1", "-k", 2, "--format", "json"]
        found = json.loads(call(cli.recommend, trained[0], *arguments).stdout)
        assert [(row["user"], row["rank"]) for row in found] == [
            ("Zoë 3", 1), ("Zoë 3", 2), ("Zoë 1", 1), ("Zoë 1", 2)
        ]  # fmt: skip
        assert all(row["item"].startswith("東京") for row in found)

    def test_csv(self, trained):
        arguments = ["--user", "Zoë 3", "-k", 2, "--format", "csv"]
        output = call(cli.recommend, trained[0], *arguments).stdout
        rows = list(csv.DictReader(io.StringIO(output)))
        assert [row["rank"] for row in rows] == ["1", "2"]
        assert rows[0].keys() == {"user", "rank", "item", "score", "source"}
        assert float(rows[0]["score"]) >= float(rows[1]["score"])

    def test_an_unknown_user_is_told_so(self, trained):
        arguments = ["--user", "nobody", "--user", "Zoë 3", "-k", 1, "--format", "json"]
        result = call(cli.recommend, trained[0], *arguments)
        assert result.exit_code == 0
        assert "user 'nobody' is unknown; these are the most popular items" in result.stderr
        found = json.loads(result.stdout)  # the note is not in the way
        assert [row["source"] for row in found] == ["popular", "model"]

    def test_nothing_already_met(self, trained):
        known = {line.split(",")[1] for line in log_lines()[: -2 * 6] if line.startswith("Zoë 3,")}
        arguments = ["--user", "Zoë 3", "-k", 100, "--format", "json"]
        found = {
            row["item"] for row in json.loads(call(cli.recommend, trained[0], *arguments).stdout)
        }
        assert found
        assert not found & known

    @pytest.mark.parametrize("arguments", [[], ["--user", "a", "-k", "0"]])
    def test_bad_options(self, trained, arguments):
        assert_fails(cli.recommend, trained[0], *arguments, message="--user|-k")

    def test_no_run_there(self, tmp_path):
        message = "gone: no such run folder"
        assert_fails(cli.recommend, tmp_path / "gone", "--user", "a", message=message)


@pytest.mark.parametrize("command", [cli.train, cli.evaluate, cli.recommend])
def test_help(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert "--backend [dgl|torch]" in result.stdout
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
