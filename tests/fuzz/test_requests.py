"""Files that are given to commands beside a run: lists, or one line that names the file."""

from __future__ import annotations

import csv
import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emorec import cli
from emorec.data.id_files import IdFiles
from emorec.data.items import read_items
from emorec.data.readers import DataError
from emorec.data.vocabulary import Vocabulary
from tests.cli.commands import TINY, call, log_lines, write_log
from tests.fuzz.amount import amount
from tests.fuzz.test_logs import (
    assert_names,
    cells,
    changed,
    json_lines,
    parquets,
    texts,
)

USERS, ITEMS = [f"Zoë {n}" for n in range(6)], [f"東京 {n}" for n in range(12)]
ids = st.sampled_from(ITEMS) | st.sampled_from(USERS) | cells
lines = st.lists(ids, max_size=6)
pairs = st.lists(st.tuples(ids, ids) | st.tuples(st.sampled_from(USERS), st.sampled_from(ITEMS)),
                 max_size=6)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    data = write_log(folder / "log.csv", log_lines())
    result = call(cli.train, "--dataset", data, "--epochs", 1, "--run-dir", folder / "run", *TINY)
    assert result.exit_code == 0, result.output
    return folder / "run"


@st.composite
def id_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of ids, or of users and items, and its name."""
    kind = draw(st.sampled_from(["lines", "lines", "pairs", "csv", "jsonl", "parquet"]))
    if kind == "csv":
        return "ids.csv", draw(texts())
    if kind == "jsonl":
        return "ids.jsonl", draw(json_lines())
    if kind == "parquet":
        return "ids.parquet", draw(parquets())
    if kind == "lines":
        text = "\n".join(draw(lines))
    else:
        header = draw(st.sampled_from(["user_id,item_id", "item_id,user_id", "item_id,a", ""]))
        text = "\n".join([header, *map(",".join, draw(pairs))])
    return draw(st.sampled_from(["ids.txt", "ids.csv"])), draw(changed(text.encode()))


@amount(150)
@given(id_files())
def test_files_of_ids(tmp_path, file):
    name, content = file
    (tmp_path / name).write_bytes(content)
    files = IdFiles("user_id", "item_id")
    for read in (files.users, files.items, files.pairs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert len(read(tmp_path / name)) > 0
            except DataError as error:
                assert_names(name, error)


def recommend(run, *options):
    """Lists, or an error of one line; nothing of Python's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = call(cli.recommend, run, "-k", "3", "--format", "csv", *options)
    assert result.exit_code in (0, 1, 2), result.output
    if result.exit_code:
        assert "Error: " in result.stderr
        return None
    return list(csv.DictReader(io.StringIO(result.stdout, newline="")))


def test_lists_without_a_file(run):
    assert len(recommend(run, "--user", USERS[0])) == 3


@amount(25)
@given(st.sampled_from(["--candidates", "--exclude", "--users"]), id_files())
def test_lists_for_files_of_ids(run, tmp_path, option, file):
    name, content = file
    (tmp_path / name).write_bytes(content)
    users = [] if option == "--users" else ["--user", USERS[0], "--user", "unknown"]
    found = recommend(run, option, tmp_path / name, *users)
    assert found is None or {row["item"] for row in found} <= set(ITEMS)


@amount(25)
@given(st.sampled_from(["events.csv", "events.jsonl", "events.parquet"]), st.data())
def test_lists_for_events(run, tmp_path, name, data):
    of_kind = {"events.csv": texts, "events.jsonl": json_lines, "events.parquet": parquets}
    (tmp_path / name).write_bytes(data.draw(of_kind[name]()))
    found = recommend(run, "--user", USERS[0], "--events", tmp_path / name)
    assert found is None or {row["user"] for row in found} <= {USERS[0]}


@amount(60)
@given(st.sampled_from(["items.csv", "items.jsonl", "items.parquet"]), st.data())
def test_tables_of_items(tmp_path, name, data):
    of_kind = {"items.csv": texts, "items.jsonl": json_lines, "items.parquet": parquets}
    content = data.draw(of_kind[name]())
    (tmp_path / name).write_bytes(content.replace(b"rating", b"title"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            items, notes = read_items(tmp_path / name, Vocabulary(["i1", "i2", "7"]))
        except DataError as error:
            assert_names(name, error)
            return
    if items.features is None:  # no column tells items apart
        assert any(note.endswith("; left out") for note in notes)
    else:
        assert np.isfinite(items.features.matrix.data).all()
