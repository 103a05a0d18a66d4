from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

from emorec import cli
from emorec.config import Config, load_config
from emorec.data.datasets import load_dataset
from emorec.data.readers import read_interactions
from emorec.data.splits import split_interactions
from emorec.experiment import load_data
from tests.cli.commands import TINY, assert_fails, call, write_log

FORMATS = ["csv", "jsonl", "parquet"]


def read(path, *settings):
    config = load_config(settings=settings)
    return read_interactions(path, **config.data.reading)[0]


def rows_of(log):
    """Rows with the users' own ids, in the order of the log."""
    users, items = log.users.lookup(log.user), log.items.lookup(log.item)
    return list(zip(users, items, log.feedback.tolist(), log.time.tolist(), strict=True))


def settings_shown(result):
    """Those of the command at the end of the output."""
    words = shlex.split(result.stdout.splitlines()[-1])
    return [words[place + 1] for place, word in enumerate(words) if word == "--set"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_converted_reads_as_the_log(log, tmp_path, suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    output = tmp_path / f"out.{suffix}"
    result = call(cli.main, "data", "convert", log, "--output", output)
    assert result.exit_code == 0, result.output
    assert f"{output}: 72 events, 6 users, 12 items" in result.stdout
    settings = settings_shown(result)
    assert settings == ["data.feedback_column=feedback"]
    assert rows_of(read(output, *settings)) == rows_of(read_interactions(log)[0])


def test_the_command_shown_trains(log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(cli.main, "data", "convert", log, "--output", "my log.csv")
    command = shlex.split(result.stdout.splitlines()[-1])
    assert command[:3] == ["emorec-train", "--dataset", "my log.csv"]
    result = call(cli.train, *command[1:], "--epochs", 1, "--run-dir", "run", *TINY)
    assert result.exit_code == 0, result.output


def test_settings_rules_and_what_was_left_out(tmp_path):
    lines = ["1;x;9;1000", "1;y;2;1001", "2;y;5;1002", "2;y;5;1002", "3;y;;1003"]
    path = write_log(tmp_path / "log.csv", lines, "Kunde;Film;rating;timestamp")
    rules = tmp_path / "rules.toml"
    rules.write_text('explicit_positive = "rating >= 9"\nimplicit_negative = "3 < rating < 9"\n')
    config = tmp_path / "config.toml"
    config.write_text('[data]\nuser_column = "Kunde"\ntime_unit = "ms"\n')
    output = tmp_path / "out.csv"
    arguments = [
        "--config", config, "--set", "data.item_column=Film", "--set", f"data.rules={rules}"
    ]  # fmt: skip
    result = call(cli.main, "data", "convert", path, "--output", output, *arguments)
    assert result.exit_code == 0, result.output
    assert "2 of 5 rows kept" in result.stdout
    assert "dropped: 1 not rated, 1 no rule matches, 1 duplicate" in result.stdout
    assert output.read_text() == (
        "user_id,item_id,feedback,timestamp\n"
        "1,x,explicit_positive,1000\n"
        "2,y,implicit_negative,1002\n"
    )
    settings = settings_shown(result)
    assert settings == ["data.feedback_column=feedback", "data.time_unit=ms"]
    assert read(output, *settings).time_unit == "ms"


def test_rare_users_are_counted(tmp_path):
    lines = ["1,x,5,1", "1,y,5,2", "2,x,5,3", "2,y,5,4", "3,x,5,5"]
    log = write_log(tmp_path / "log.csv", lines)
    arguments = ["--output", tmp_path / "out.csv", "--set", "data.min_user_events=2"]
    result = call(cli.main, "data", "convert", log, *arguments)
    assert "1 rows of rare users and items are dropped (k-core)" in result.stdout
    assert "4 events, 2 users, 2 items" in result.stdout


def test_a_log_without_times(tmp_path):
    log = write_log(tmp_path / "log.csv", ["1,x,5", "2,y,1", "1,y,4"], "user_id,item_id,rating")
    output = tmp_path / "out.jsonl"
    arguments = ["--set", "data.time_column=", "--output", output]
    settings = settings_shown(call(cli.main, "data", "convert", log, *arguments))
    assert settings == ["data.feedback_column=feedback", "data.time_column="]
    assert rows_of(read(output, *settings)) == [(1, "x", 0, 0), (2, "y", 3, 0), (1, "y", 1, 0)]


def test_public_data_sets_by_name(tmp_path):
    (tmp_path / "u.data").write_text("1\t10\t5\t100\n2\t20\t1\t101\n")
    output = tmp_path / "out.csv"
    arguments = ["ml-100k", "--data-dir", tmp_path, "--output", output]
    assert call(cli.main, "data", "convert", *arguments).exit_code == 0
    assert output.read_text().splitlines()[1:] == [
        "1,10,explicit_positive,100",
        "2,20,explicit_negative,101",
    ]
    assert call(cli.main, "data", "convert", "synthetic", "--output", output).exit_code == 0
    assert rows_of(read(output, "data.feedback_column=feedback")) == rows_of(
        load_dataset("synthetic")
    )


@pytest.mark.parametrize("output_format", FORMATS)
def test_splits_are_those_of_training(log, tmp_path, output_format):
    if output_format == "parquet":
        pytest.importorskip("pyarrow")
    folder = tmp_path / "split"
    arguments = ["--set", "split.n=2", "--format", output_format, "--output", folder]
    result = call(cli.main, "data", "split", log, *arguments)
    assert result.exit_code == 0, result.output
    expected = split_interactions(read_interactions(log)[0], n=2)
    facts = json.loads((folder / "split.json").read_text())
    assert facts["rule"] == {"method": "leave_last_out", "n": 2}
    for name in ("train", "valid", "test"):
        part, about = getattr(expected, name), facts["splits"][name]
        written = read(folder / about["file"], *facts["settings"])
        assert rows_of(written) == rows_of(part)
        assert about["rows"] == len(part) == sum(about["feedback"].values())
        assert about["users"] == len(np.unique(part.user))
    assert facts["left_out"]["test row of a new user or item"] == expected.dropped
    assert "leave-2-last-out" in result.stdout
    assert f"{folder / 'test'}.{output_format}: {len(expected.test)} events" in result.stdout


def test_the_time_split_counts_its_gaps(tmp_path):
    day = 86_400
    lines = [
        f"{user},{item},5,{half * day // 2}" for half in range(10) for user in "ab" for item in "xy"
    ]
    log, folder = write_log(tmp_path / "log.csv", lines), tmp_path / "split"
    settings = ["split.method=time", "split.days=1", f"split.gap={12 * 60}"]
    options = [word for each in settings for word in ("--set", each)]
    result = call(cli.main, "data", "split", log, "--output", folder, *options)
    assert result.exit_code == 0, result.output
    facts = json.loads((folder / "split.json").read_text())
    sizes = {name: part["rows"] for name, part in facts["splits"].items()}
    config = Config().with_settings(*settings, f"data.dataset={log}")
    made = split_interactions(load_data(config.data, None)[0], **config.split.rule)
    assert facts["rule"] == {"method": "time", "days": 1.0, "gap": 720.0}
    assert sizes == {name: len(getattr(made, name)) for name in ("train", "valid", "test")}
    assert facts["left_out"]["gap before a cut"] == 40 - sum(sizes.values()) > 0


def test_an_earlier_split_is_replaced_as_a_whole(log, tmp_path):
    folder = tmp_path / "split"
    options = ["--output", folder, "--set", "split.n=2", "--format"]
    assert call(cli.main, "data", "split", log, *options, "csv").exit_code == 0
    assert call(cli.main, "data", "split", log, *options, "jsonl").exit_code == 0
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names == {"train.jsonl", "valid.jsonl", "test.jsonl", "split.json", "manifest.json"}


def test_other_folders_are_left_alone(log, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "train.csv").write_text("mine")
    options = ["--output", tmp_path / "own", "--set", "split.n=2"]
    assert_fails(cli.main, "data", "split", log, *options, message="holds no earlier split")
    assert (tmp_path / "own" / "train.csv").read_text() == "mine"


def test_a_split_that_fails_leaves_nothing(log, tmp_path):
    options = ["--output", tmp_path / "new", "--set", "split.n=50"]
    assert_fails(cli.main, "data", "split", log, *options, message="no user has more than n = 50")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("convert", ["--output", "o.xlsx"], r"the suffix must be one of .csv, .jsonl, .parquet"),
        ("convert", ["--output", "log.csv"], "log.csv is the log itself; choose another file"),
        ("convert", ["--output", "o.csv", "--set", "split.n=2"], "only settings of data can be"),
        ("convert", ["--output", "o.csv", "--set", "data.dataset=x"], "give the file as the arg"),
        ("convert", ["--output", "o.csv", "--set", "data.user=x"], "data.user"),
        ("convert", ["--output", "o.csv", "--set", "data.user_column=x"], "no column 'x'"),
        ("split", ["--output", "o", "--set", "graph.heads=2"], "of data and split can be given"),
    ],
)
def test_what_is_refused(log, tmp_path, monkeypatch, command, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert_fails(cli.main, "data", command, log, *arguments, message=message)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_neither_a_file_nor_a_data_set(tmp_path):
    arguments = ["ml-1n", "--output", tmp_path / "o.csv"]
    assert_fails(cli.main, "data", "convert", *arguments, message="did you mean 'ml-1m'")


def test_odd_ids_come_back(tmp_path):
    ids = ['a,"b"', "=1+1", "007", " x ", "\u2028"]
    lines = [json.dumps({"user_id": u, "item_id": i, "rating": 5, "timestamp": n})
             for n, (u, i) in enumerate(zip(ids, ids[::-1], strict=True))]  # fmt: skip
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for suffix in ("csv", "jsonl"):
        output = tmp_path / f"out.{suffix}"
        assert call(cli.main, "data", "convert", log, "--output", output).exit_code == 0
        written = read(output, "data.feedback_column=feedback")
        assert written.users.ids == ids and written.items.ids == ids[::-1]


def test_a_split_whose_files_were_not_moved_into_place_is_written_over(log, tmp_path):
    arguments = ("data", "split", log, "--set", "split.n=2", "--output")
    assert call(cli.main, *arguments, tmp_path / "one").exit_code == 0
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / ".lock").unlink(missing_ok=True)
    (tmp_path / "one").rename(tmp_path / "two" / ".written")
    assert call(cli.main, *arguments, tmp_path / "two").exit_code == 0
    assert (tmp_path / "two" / "split.json").exists()


def test_the_random_split_by_its_share(log, tmp_path):
    options = ["--set", "split.method=random", "--set", "split.quantile=0.75"]
    result = call(cli.main, "data", "split", log, "--output", tmp_path / "split", *options)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "split" / "split.json").read_text())
    assert facts["rule"] == {"method": "random", "quantile": 0.75}
