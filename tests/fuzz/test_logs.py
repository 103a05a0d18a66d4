"""Logs of any bytes: events, or one line that names the file."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from emorec.data.describe import describe
from emorec.data.readers import DataError, read_interactions
from emorec.data.table_files import read_parts, read_table
from tests.fuzz.amount import amount

COLUMNS = ("user_id", "item_id", "rating", "timestamp")
CELLS = (
    "", "0", "1", "5", "-1", "4.5", "1e5", "1e999", "-1e999", "9" * 25, "9" * 400, "0x10", "1_000",
    "nan", "NA", "inf", "-inf", "null", "None", "True", "1970-01-01", "2020-02-30", "9999-12-31",
    "2020-01-01T00:00:00+25:00", "978300760", "978300760000", "-978300760", "1e18", "1,5", "५",
    '"', '""', '"a', 'a"', '"a\nb"', "'", "\\", "\0", "\ufeff", "\ud7ff", "é", "東京", "a b", " 5 ",
    "\t", ",", ";", "|", "::", "\r", "\x1a", "\x1f", "\u2028", "x" * 300, "user_id", "=1+1",
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "cp1252")

cells = st.sampled_from(CELLS) | st.sampled_from(["1", "2", "3", "4", "5"]) | st.text(max_size=6)
names = st.sampled_from([*COLUMNS, *COLUMNS, "", "a", '"user_id"', " rating", "RATING", "\0"])
headers = st.just(list(COLUMNS)) | st.lists(names, max_size=6)
ordinary = st.tuples(
    st.sampled_from(["u1", "u2", "3"]), st.sampled_from(["i1", "i2", "7"]),
    st.sampled_from(["1", "5", "3.5"]), st.sampled_from(["978300760", "978300761"]),
).map(list)  # fmt: skip
rows = st.lists(ordinary | st.lists(cells, max_size=5) | st.lists(cells, min_size=4, max_size=4),
                max_size=6)  # fmt: skip


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A file of cells, most often with the header of a log, and sometimes with changed bytes."""
    delimiter = draw(st.sampled_from([",", ",", "\t", ";", "|", "::"]))
    end = draw(st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"]))
    lines = [delimiter.join(row) for row in [draw(headers), *draw(rows)]]
    text = end.join(lines) + draw(st.sampled_from(["", end, end + end, " ", "\0"]))
    content = text.encode(draw(st.sampled_from(ENCODINGS)), errors="replace")
    return draw(changed(content))


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> bytes:
    """The same bytes, cut short, or some of them others."""
    if not content or draw(st.integers(0, 2)):
        return content
    content = content[: draw(st.integers(1, len(content)))]
    array = bytearray(content)
    for _ in range(draw(st.integers(0, 3))):
        array[draw(st.integers(0, len(array) - 1))] = draw(st.integers(0, 255))
    return bytes(array)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | cells
    | st.sampled_from([10**30, -(10**30), 10**400, 2**63, -(2**63) - 1, "\ud800"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(cells, inner, max_size=2),
    max_leaves=3,
)  # fmt: skip
records = st.fixed_dictionaries(
    {"user_id": values, "item_id": values, "rating": st.integers(1, 5) | values},
    optional={"timestamp": st.integers(0, 2**40) | values, "a": values},
) | st.dictionaries(names, values, max_size=4)
ordinary_record = st.fixed_dictionaries(
    {"user_id": st.integers(0, 2), "item_id": st.integers(0, 2), "rating": st.integers(1, 5),
     "timestamp": st.integers(1, 2)}
)  # fmt: skip


@st.composite
def json_lines(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(ordinary_record | ordinary_record | records | values, max_size=4))
    text = "\n".join(json.dumps(line) for line in lines)
    return draw(changed(text.encode()))


columns_of_values = {
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "double": st.floats(),
    "float": st.floats(width=32),
    "bool": st.booleans(),
    "string": st.text(max_size=3),
    "binary": st.binary(max_size=3),
    "timestamp[ns, tz=UTC]": st.integers(-(2**62), 2**62),
    "timestamp[s]": st.integers(-(2**33), 2**33),
    "duration[s]": st.integers(-(2**33), 2**33),
    "date": st.dates(),
    "time": st.times(),
    "decimal": st.decimals(-100, 100, places=2),
    "list": st.lists(st.integers(0, 3), max_size=2),
    "struct": st.fixed_dictionaries({"a": st.integers(0, 3)}),
    "null": st.none(),
    "dictionary": st.sampled_from(["a", "b"]),
}


@st.composite
def parquets(draw: st.DrawFn) -> bytes:
    """A parquet file with columns of any type, and sometimes with changed bytes."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    types = {
        "binary": arrow.binary(), "date": arrow.date32(), "time": arrow.time64("us"),
        "decimal": arrow.decimal128(9, 2), "list": arrow.list_(arrow.int64()),
        "struct": arrow.struct([("a", arrow.int64())]), "null": arrow.null(),
        "dictionary": arrow.dictionary(arrow.int8(), arrow.string()),
        "timestamp[ns, tz=UTC]": arrow.timestamp("ns", "UTC"), "timestamp[s]": arrow.timestamp("s"),
        "duration[s]": arrow.duration("s"), "string": arrow.string(), "bool": arrow.bool_(),
        "int64": arrow.int64(), "uint64": arrow.uint64(), "double": arrow.float64(),
        "float": arrow.float32(),
    }  # fmt: skip
    number = draw(st.integers(0, 4))
    arrays, found = [], draw(st.just(list(COLUMNS)) | st.lists(names, max_size=5))
    for _ in found:
        kind = draw(st.sampled_from(["int64", "int64", "string", *columns_of_values]))
        each = columns_of_values[kind]
        each = st.none() | each if draw(st.booleans()) else each
        listed = draw(st.lists(each, min_size=number, max_size=number))
        arrays.append(arrow.array(listed, types[kind]))
    sink = arrow.BufferOutputStream()
    schema = arrow.schema([(name, array.type) for name, array in zip(found, arrays, strict=True)])
    parquet.write_table(arrow.Table.from_arrays(arrays, schema=schema), sink)
    return draw(changed(sink.getvalue().to_pybytes()))


options = st.fixed_dictionaries(
    {},
    optional={
        "delimiter": st.sampled_from([",", "\t", "::", ";"]),
        "encoding": st.sampled_from(ENCODINGS),
        "decimal": st.sampled_from([",", "."]),
        "names": st.sampled_from([list(COLUMNS), ["user_id", "item_id"]]),
        "time": st.just(""),
        "time_unit": st.sampled_from(["s", "ms", "us", "ns"]),
        "time_format": st.sampled_from(["%Y-%m-%d", "%d/%m/%Y", "nonsense"]),
        "feedback": st.sampled_from(["rating", "a"]),
        "rules": st.sampled_from(
            [{"implicit_positive": "True"}, {"explicit_positive": "rating == 'a'"}, "plays"]
        ),
        "user": st.sampled_from(["user_id", "item_id", "rating"]),
    },
)


def assert_names(name: str, error: DataError) -> None:
    """One line that names the file, but for rules, which stand on lines of their own."""
    text = str(error)
    line, _, rules = text.partition("\n")
    assert name in line and len(text) < 3000, text
    assert not rules or "rules" in line, text


def assert_events_or_one_line(path, read) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            log = read(path)
        except DataError as error:
            assert_names(path.name, error)
            return
    assert len(log) > 0
    assert len(log) == len(log.user) == len(log.item) == len(log.time) == len(log.feedback)
    assert ((log.feedback >= 0) & (log.feedback <= 3)).all()
    assert np.unique(log.user).tolist() == list(range(log.num_users))
    assert np.unique(log.item).tolist() == list(range(log.num_items))


def check(path, content, chosen) -> None:
    path.write_bytes(content)
    if chosen.get("rules") == "plays":
        chosen = {**chosen, "rules": {"implicit_positive": "rating > 1 or timestamp == 5"}}
    assert_events_or_one_line(path, lambda p: read_interactions(p, **chosen)[0])


@amount(150)
@given(texts(), options)
def test_text(tmp_path, content, chosen):
    check(tmp_path / "log.csv", content, chosen)


@amount(60)
@given(st.binary(max_size=60), options)
def test_bytes(tmp_path, content, chosen):
    check(tmp_path / "log.csv", content, chosen)


@amount(100)
@given(json_lines(), options)
def test_json_lines(tmp_path, content, chosen):
    check(tmp_path / "log.jsonl", content, chosen)


@amount(100)
@given(parquets(), options)
def test_parquet(tmp_path, content, chosen):
    check(tmp_path / "log.parquet", content, chosen)


@amount(30)
@given(texts().map(gzip.compress).flatmap(changed))
def test_packed(tmp_path, content):
    check(tmp_path / "log.csv.gz", content, {})


@amount(60)
@given(st.sampled_from(["log.csv", "log.jsonl"]), st.data())
def test_descriptions(tmp_path, name, data):
    """Guesses of what a log holds, too."""
    content = data.draw(texts() if name == "log.csv" else json_lines())
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            str(describe(tmp_path / name))
        except DataError as error:
            assert_names(name, error)


@amount(60)
@given(texts(), st.integers(1, 3))
def test_parts_are_the_whole(tmp_path, content, size):
    path = tmp_path / "log.csv"
    path.write_bytes(content)
    read = {"text_columns": COLUMNS, "columns": COLUMNS}
    try:
        whole = read_table(path, **read).frame
    except DataError:
        if Version(pd.__version__) >= Version("3.1"):  # else too long a first row of a part is cut
            with pytest.raises(DataError, match=r"log\.csv"):
                list(read_parts(path, size, **read))
        return
    parts = [part.frame for part in read_parts(path, size, **read)]
    assert max(map(len, parts)) <= size
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)


times = st.datetimes(datetime.datetime(1, 1, 1)) | st.dates() | st.integers() | st.floats()
frames = st.fixed_dictionaries(
    {name: st.lists(values | times | st.just(decimal.Decimal("1.5")), min_size=3, max_size=3)
     for name in COLUMNS}
)  # fmt: skip


@amount(60)
@given(frames, options)
def test_frames(content, chosen):
    frame = pd.DataFrame({name: pd.Series(each, dtype=object) for name, each in content.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if chosen.get("rules") == "plays":
            chosen = {**chosen, "rules": {"implicit_positive": "rating > 1 or timestamp == 5"}}
        try:
            read_interactions(frame, **chosen)
        except DataError as error:
            assert_names("the DataFrame", error)
