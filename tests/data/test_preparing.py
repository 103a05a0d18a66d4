"""Prepared logs: the same events as the reader's, in bounded memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("duckdb", reason="needs DuckDB, the extra large")
pytest.importorskip("pyarrow", reason="needs pyarrow, the extra large")
from emorec import EmoRec, cli  # noqa: E402
from emorec.data import preparing  # noqa: E402
from emorec.data.files import DataError  # noqa: E402
from emorec.data.prepared import part_of, read_prepared  # noqa: E402
from emorec.data.preparing import prepare_log  # noqa: E402
from emorec.data.readers import read_interactions  # noqa: E402
from emorec.data.staging import Stage  # noqa: E402
from emorec.data.synthetic import generate  # noqa: E402
from emorec.data.writing import frames_of  # noqa: E402
from emorec.experiment import load_data  # noqa: E402
from tests.cli.commands import assert_fails, call  # noqa: E402
from tests.small import small_config  # noqa: E402

RULES = {
    "explicit_positive": "rating >= 4 and device == 'tv'",
    "implicit_positive": ["rating == 4", "share > 0.8"],
    "implicit_negative": "rating == 3",
    "explicit_negative": "0 < rating <= 2",
}
ids = {
    "numbers": st.integers(0, 9),
    "text": st.sampled_from(["a", "b", "NA", "07", "é ☃", 'qu"ote, comma']),
}
times = {
    "seconds": st.integers(10**9, 10**9 + 50),
    "fractions": st.sampled_from([1e9, 1e9 + 0.5, 1e9 + 0.25]),
    "dates": st.sampled_from(["2020-01-01", "2020-01-01T00:00:00.5", "2021-02-03 04:05:06"]),
}


@st.composite
def logs(draw):
    """A log as files of one format, and how it is read."""
    user, item = draw(st.sampled_from(list(ids))), draw(st.sampled_from(list(ids)))
    time_kind = draw(st.sampled_from([*times, None]))
    row = {"user_id": ids[user], "item_id": ids[item]}
    if time_kind:
        row["timestamp"] = times[time_kind]
    has_rules = draw(st.booleans())
    if has_rules:
        row |= {"rating": st.sampled_from([None, 0.0, 1.0, 2.5, 3.0, 4.0, 5.0])}
        row |= {"device": st.sampled_from(["tv", "phone"]), "share": st.floats(0, 1)}
    else:
        row["feedback"] = st.sampled_from(["explicit_positive", "implicit-negative", "Like"][:2])
    rows = draw(st.lists(st.fixed_dictionaries(row), min_size=1, max_size=40))
    cut = draw(st.integers(0, len(rows)))
    options = {"time": "timestamp" if time_kind else ""}
    options |= {"rules": RULES} if has_rules else {"feedback": "feedback"}
    return rows, cut, draw(st.sampled_from(["csv", "jsonl", "parquet"])), options


def write(rows, path):
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
    else:
        frame.to_parquet(path)


def assert_same(found, expected):
    (log, report), (right, its_report) = found, expected
    for column in ("user", "item", "feedback", "time"):
        np.testing.assert_array_equal(getattr(log, column), getattr(right, column))
    assert log.users == right.users and log.items == right.items
    assert log.time_unit == right.time_unit
    assert replace(report, source="") == replace(its_report, source="")


@pytest.mark.filterwarnings("ignore:.*matches no row", "ignore:.*is read as an id")
@given(logs(), st.integers(1, 9))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_events_are_those_of_the_reader(tmp_path_factory, log, rows_at_once):
    rows, cut, suffix, options = log
    folder = tmp_path_factory.mktemp("logs")
    write(rows, folder / f"whole.{suffix}")
    parts = [part for part in (rows[:cut], rows[cut:]) if part]
    files = [folder / f"{number}.{suffix}" for number in range(len(parts))]
    for part, file in zip(parts, files, strict=True):
        write(part, file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_ROWS", rows_at_once)
        try:
            expected = read_interactions(folder / f"whole.{suffix}", **options)
        except ValueError as error:
            with pytest.raises(type(error)):
                prepare_log(files, folder / "log", parts=3, **options)
            assert not (folder / "log" / "log.json").exists()
            return
        prepare_log(files, folder / "log", parts=3, **options)
    assert_same(read_prepared(folder / "log"), expected)
    assert sorted(path.name for path in (folder / "log").iterdir() if path.name[0] != ".") == [
        "items.parquet", "log.json", "manifest.json",
        "part-0000.parquet", "part-0001.parquet", "part-0002.parquet", "users.parquet",
    ]  # fmt: skip


LOG = generate(num_users=40, num_items=60, num_topics=8, events_per_user=12).interactions


@pytest.fixture
def file(tmp_path):
    pd.concat(list(frames_of(LOG))).to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


@pytest.fixture
def folder(file, tmp_path):
    prepare_log([file], tmp_path / "log", feedback="feedback", parts=4)
    return tmp_path / "log"


def test_a_part_has_the_users_whose_ids_hash_there(folder):
    whole, _ = read_prepared(folder)
    for number in range(4):
        users = pd.read_parquet(folder / f"part-000{number}.parquet")["user"].unique()
        assert len(users)
        np.testing.assert_array_equal(part_of(whole.users.lookup(users), 4), number)


def test_training_takes_it_as_it_takes_the_file(folder, file):
    from_file = small_config(f"data.dataset={file}", "data.feedback_column=feedback")
    expected, _ = load_data(from_file.data, None)
    found, _ = load_data(small_config(f"data.dataset={folder}").data, None)
    assert_same((found, read_prepared(folder)[1]), (expected, read_prepared(folder)[1]))
    config = small_config("training.epochs=1", preset="emorec-graph")
    one, two = (EmoRec(config=config).fit(log, progress=False) for log in (found, expected))
    pd.testing.assert_frame_equal(
        one.recommend(LOG.users.ids[:9]), two.recommend(LOG.users.ids[:9])
    )


def test_damaged_missing_and_foreign_files_are_named(folder):
    part = folder / "part-0001.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-9])
    with pytest.raises(DataError, match="part-0001.parquet: is damaged"):
        read_prepared(folder)
    part.unlink()
    with pytest.raises(DataError, match="part-0001.parquet is missing"):
        read_prepared(folder)
    part.write_bytes(content)
    (folder / "manifest.json").unlink()  # then nothing is checked but the content
    (folder / "log.json").write_text("{}")
    with pytest.raises(DataError, match="log.json: not that of a prepared log"):
        read_prepared(folder)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("user_id,item_id,feedback,timestamp\n1,2,explicit_positive,", "the time is missing"),
        ("user_id,item_id,feedback,timestamp\n1,2,loved,1000000000", "line 2 of .*b.csv.*loved"),
        (
            "user_id,item_id,feedback,timestamp\n1,2,explicit_positive,1000000000000",
            "line 2 of .*b.csv and after: times read as milliseconds .*before: .*as seconds",
        ),
        ("user_id,item_id,timestamp\n1,2,1000000000", "no column 'feedback'"),
        ("user_id,item_id,feedback,timestamp\n", "no rows"),
    ],
)
def test_wrong_files_are_refused(tmp_path, second, message):
    first = "user_id,item_id,feedback,timestamp\n1,2,explicit_positive,1000000000\n"
    (tmp_path / "a.csv").write_text(first)
    (tmp_path / "b.csv").write_text(second)
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(DataError, match=message):
        prepare_log(files, tmp_path / "log", feedback="feedback")
    assert not (tmp_path / "log" / "log.json").exists()
    (tmp_path / "b.csv").write_text(first.replace("1,2", "3,4"))
    assert sum(prepare_log(files, tmp_path / "log", feedback="feedback").feedback) == 2


def test_numbers_and_text_as_ids_are_refused(tmp_path):
    lines = ['{"user_id": 1, "item_id": 2, "feedback": "explicit_positive"}'] * 3
    lines.append('{"user_id": "b", "item_id": 2, "feedback": "explicit_positive"}')
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match="'user_id': some ids are numbers and others text"):
        prepare_log([tmp_path / "a.jsonl"], tmp_path / "log", feedback="feedback", time="")


def test_a_killed_call_goes_on(file, tmp_path):
    """Killed at ten moments; what was read is not read again, and the result is the same."""
    text = file.read_text().splitlines()
    files = []
    for number in range(12):
        files.append(tmp_path / f"{number}.csv")
        files[-1].write_text("\n".join([text[0], *text[1 + number :: 12]]) + "\n")
    whole = prepare_log(files, tmp_path / "right", feedback="feedback", parts=4)
    program = (
        "import sys, time\nfrom emorec.data import preparing, staging\n"
        "def slowly(self, source, complete=staging.Stage.complete):\n"
        "    complete(self, source); print(source, flush=True); time.sleep(0.2)\n"
        "staging.Stage.complete = slowly\n"
        "preparing.prepare_log(sys.argv[2:], sys.argv[1], feedback='feedback', parts=4)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log"), *map(str, files)]
    read = []
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(2):
            read.append(process.stdout.readline().strip())
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "log" / "log.json").exists()
        time.sleep(0.05)
    assert read == [str(path) for path in files[:6]]
    assert prepare_log(files, tmp_path / "log", feedback="feedback", parts=4) == whole
    assert_same(read_prepared(tmp_path / "log"), read_prepared(tmp_path / "right"))
    assert not list((tmp_path / "log").glob(".[sw]*"))


@pytest.mark.parametrize("change", ["options", "content"])
def test_what_a_stopped_call_read_otherwise_is_read_again(file, tmp_path, monkeypatch, change):
    other = tmp_path / "other.csv"
    read = []

    def noted(self, source, complete=Stage.complete):
        read.append(source.name)
        complete(self, source)

    monkeypatch.setattr(Stage, "complete", noted)
    options = {"feedback": "feedback", "parts": 2}
    other.write_text("")
    for _ in range(2):  # the second call goes on with what could not be read
        with pytest.raises(DataError, match="other.csv"):
            prepare_log([file, other], tmp_path / "log", **options)
    assert read == ["log.csv"]
    if change == "options":
        options["encoding"] = "utf-8-sig"
    else:
        file.write_text(file.read_text() + "new,new,explicit_positive,2000000000\n")
    other.write_text("user_id,item_id,feedback,timestamp\na,b,explicit_positive,2000000001\n")
    made = prepare_log([file, other], tmp_path / "log", **options)
    assert read == ["log.csv", "log.csv", "other.csv"]
    assert made == prepare_log([file, other], tmp_path / "right", **options)


def test_a_log_without_times(file, tmp_path):
    text = file.read_text().splitlines()
    file.write_text("\n".join([*text, text[1]]) + "\n")  # the first row again is another event
    made = prepare_log([file], tmp_path / "log", feedback="feedback", time="", parts=2)
    assert made.time_unit == "none" and sum(made.feedback) == len(text)
    assert "the order of rows is that of events" in made.time_note
    expected = read_interactions(file, feedback="feedback", time="")
    assert_same(read_prepared(tmp_path / "log"), expected)


def test_a_full_disk_is_told_in_a_line(file, tmp_path, monkeypatch):
    import duckdb

    def fails(*_):
        raise duckdb.OutOfMemoryException("there is no room\nat all")

    monkeypatch.setattr(preparing, "_write", fails)
    with pytest.raises(DataError, match="^the log cannot be sorted: there is no room at all$"):
        prepare_log([file], tmp_path / "log", feedback="feedback")
    assert not list((tmp_path / "log").glob("[!.]*"))


def test_what_must_be_installed_is_named(file, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(DataError, match=r"needs DuckDB: pip install 'emorec\[large\]'"):
        prepare_log([file], tmp_path / "new", feedback="feedback")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"log.* needs pyarrow: pip install 'emorec\[large\]'"):
        read_prepared(folder)


def test_a_state_never_names_files_that_are_gone(file, tmp_path, monkeypatch):
    """Removing what was read can stop at any file: the state went before."""
    state = tmp_path / "log" / ".staged" / "state.json"

    def stopped(folder, ignore_errors=False):
        if folder == state.parent:
            assert not state.exists()
            raise OSError("stopped")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="stopped"):
        patch.setattr("emorec.data.staging.shutil.rmtree", stopped)
        prepare_log([file], tmp_path / "log", feedback="feedback", parts=2)
    found = prepare_log([file], tmp_path / "log", feedback="feedback", parts=2)
    assert read_prepared(tmp_path / "log")[1] == found.report
    assert not state.parent.exists()


def test_the_command(file, tmp_path):
    options = ("--set", "data.feedback_column=feedback", "--output", tmp_path / "log")
    result = call(cli.main, "data", "prepare", str(tmp_path / "l*.csv"), *options)
    assert result.exit_code == 0, result.output
    assert f"{len(LOG):,} of {len(LOG):,} rows kept" in result.stdout
    assert "emorec-train --dataset" in result.stdout
    assert_same(read_prepared(tmp_path / "log"), read_interactions(file, feedback="feedback"))
    message = "only settings of data can be given here"
    more = ("--set", "training.epochs=1", "--output", tmp_path / "no")
    assert_fails(cli.main, "data", "prepare", file, *more, message=message)
    assert not (tmp_path / "no").exists()


def test_what_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(ValueError, match="data.order must be 'file': a prepared log keeps"):
        prepare_log([tmp_path / "log.csv"], tmp_path / "log", order="none")
    with pytest.raises(ValueError, match="there is no file to prepare"):
        prepare_log([], tmp_path / "log")
    assert not list(tmp_path.iterdir())


def test_ratings_are_judged_over_all_files(tmp_path):
    # Either file alone could be stars: the second holds the only rating beyond 5.
    for name, rating in (("a", 5), ("b", 9)):
        rows = "".join(f"{n % 3},{n},{1 + n % 5},{1000 + n}\n" for n in range(9))
        text = f"user_id,item_id,rating,timestamp\n{rows}7,9,{rating},5000\n"
        (tmp_path / f"{name}.csv").write_text(text)
    assert prepare_log([tmp_path / "a.csv"], tmp_path / "good").feedback == [2, 2, 2, 4]
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    with pytest.raises(DataError, match=r"a\.csv \+ .*b\.csv: ratings go from 1 to 9"):
        prepare_log(files, tmp_path / "log")
