import gzip
import sys
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from emorec.data.feedback import Feedback
from emorec.data.readers import (
    DataError,
    ReadReport,
    interactions_of_table,
    read_interactions,
)
from emorec.data.rules import FeedbackRules
from emorec.data.tables import Table
from tests.small import PANDAS_2

HEADER = "user_id,item_id,rating,timestamp\n"
ONE = '{"user_id": 1, "item_id": 2, "rating": 5, "timestamp": 3}\n'
ISO = "expected seconds, milliseconds"


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    """Logs of two rows leave most rules unused."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*this rule matches no row")
        yield


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def columns(path_or_frame: Any, **options: Any) -> tuple[list[Any], list[Any], list[int]]:
    log, _ = read_interactions(path_or_frame, **options)
    return log.users.lookup(log.user), log.items.lookup(log.item), log.time.tolist()


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("log.csv", HEADER + "b,1,5,3\na,2,4,2\n", {}),
        ("log.csv.gz", HEADER + "b,1,5,3\na,2,4,2\n", {}),
        ("log.csv", "\ufeff" + HEADER + "b,1,5,3\n\na,2,4,2", {}),
        ("log.csv", HEADER.replace("\n", "\r\n") + "b,1,5,3\r\na,2,4,2\r\n", {}),
        ("log.tsv", HEADER.replace(",", "\t") + "b\t1\t5\t3\na\t2\t4\t2\n", {}),
        ("log.txt", HEADER.replace(",", "::") + "b::1::5::3\na::2::4::2\n", {}),
        ("log.txt", HEADER.replace(",", ";") + "b;1;5;3\na;2;4;2\n", {}),
        ("log.txt", HEADER.replace(",", "|") + "b|1|5|3\na|2|4|2\n", {}),
        ("log.txt", HEADER.replace(",", " ") + "b 1 5 3\na 2 4 2\n", {}),
        ("log.txt", HEADER.replace(",", "<>") + "b<>1<>5<>3\na<>2<>4<>2\n", {"delimiter": "<>"}),
        ("log", HEADER + "b,1,5,3\na,2,4,2\n", {"file_format": "csv"}),
        ("log.csv", "note,timestamp,rating,item_id,user_id\n,3,5,1,b\nx,2,4,2,a\n", {}),
        (
            "log.dat",
            "b::1::5::3\na::2::4::2\n",
            {"names": ["user_id", "item_id", "rating", "timestamp"], "delimiter": "::"},
        ),
        ("log.csv", (HEADER + "b,1,5,3\na,2,4,2\n").encode("utf-16"), {"encoding": "utf-16"}),
        (
            "log.jsonl.gz",
            '{"user_id":"b","item_id":1,"rating":5,"timestamp":3,"text":"[]"}\n'
            '\n{"item_id":2,"user_id":"a","rating":4.0,"timestamp":2}\n',
            {},
        ),
    ],
)
def test_text_files_of_any_shape(
    tmp_path: Path, name: str, content: str | bytes, options: dict[str, Any]
) -> None:
    path = write(tmp_path, name, content)
    assert columns(path, **options) == (["b", "a"], [1, 2], [3, 2])


def test_data_frames_keep_the_types_of_ids() -> None:
    frame = pd.DataFrame(
        {"who": ["007", "8"], "what": [3, 4], "stars": [5, 2], "when": [1, 2]}, index=[9, 9]
    )
    names = {"user": "who", "item": "what", "rating": "stars", "time": "when"}
    assert columns(frame, **names) == (["007", "8"], [3, 4], [1, 2])
    assert list(frame) == ["who", "what", "stars", "when"]


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "log.parquet"
    pd.DataFrame(
        {"user_id": ["b", "a"], "item_id": [1, 2], "rating": [5.0, 4.0], "timestamp": [3, 2]}
    ).to_parquet(path)
    assert columns(path) == (["b", "a"], [1, 2], [3, 2])
    with pytest.raises(DataError, match="no column 'usr_id' .*did you mean 'user_id'"):
        read_interactions(path, user="usr_id")


def test_parquet_with_a_column_that_pandas_wrote_as_its_index(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {"user_id": ["a", "b"], "item_id": [1, 2], "rating": [5, 1], "timestamp": [10, 20]}
    )
    frame.set_index("user_id").to_parquet(tmp_path / "log.parquet")
    log, _ = read_interactions(tmp_path / "log.parquet")
    assert log.users.ids == ["a", "b"]
    assert log.feedback.tolist() == [0, 3]


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    path = write(tmp_path, "log.parquet", b"PAR1")
    with pytest.raises(DataError, match=r"needs pyarrow: pip install 'emorec\[parquet\]'"):
        read_interactions(path)


def test_ids_survive_to_the_letter(tmp_path: Path) -> None:
    users = ["Anna Müller", " 日本 ", "NA", "007", "1e3", "nan", "-0"]
    rows = "".join(f"{user}\t{n}\t5\t{n}\n" for n, user in enumerate(users))
    path = write(tmp_path, "log.tsv", HEADER.replace(",", "\t") + rows)
    assert columns(path)[0] == users


@pytest.mark.parametrize(
    ("written", "ids"),
    [
        (["7", "-8", "0"], [7, -8, 0]),
        (["7", "08"], ["7", "08"]),
        (["7", "8.0"], ["7", "8.0"]),
        (["999999999999999999"], [999999999999999999]),
        (["9999999999999999999"], ["9999999999999999999"]),
    ],
)
def test_digits_in_text_files_become_integers_where_nothing_is_lost(
    tmp_path: Path, written: list[str], ids: list[Any]
) -> None:
    rows = "".join(f"{user},1,5,{n}\n" for n, user in enumerate(written))
    found = columns(write(tmp_path, "log.csv", HEADER + rows))[0]
    assert found == ids and [type(value) for value in found] == [type(value) for value in ids]


@pytest.mark.parametrize(
    ("written", "options", "ticks", "unit"),
    [
        (["978300760", "5"], {}, [978300760, 5], "s"),
        (["978300760.0", "5e0"], {}, [978300760, 5], "s"),
        (["978300760000", "0"], {}, [978300760000, 0], "ms"),
        (["5"], {"time_unit": "ms"}, [5], "ms"),
        (["978300760000"], {"time_unit": "s"}, [978300760000], "s"),
        (["2000-12-31"], {}, [978220800], "s"),
        (["2000-12-31 22:12:40", "2000-12-31T22:12:40Z"], {}, [978300760, 978300760], "s"),
        (["2000-12-31T22:12:40+01:00"], {}, [978297160], "s"),
        (["2000-12-31T22:12:40.25Z", "2000-12-31"], {}, [978300760250, 978220800000], "ms"),
        (["2000-12-31"], {"time_unit": "ms"}, [978220800000], "ms"),
        (["31.12.2000"], {"time_format": "%d.%m.%Y"}, [978220800], "s"),
        (["20001231"], {"time_format": "%Y%m%d"}, [978220800], "s"),
        (["20001231.0"], {"time_format": "%Y%m%d"}, [978220800], "s"),
        (["20001231221240"], {"time_format": "%Y%m%d%H%M%S"}, [978300760], "s"),
        (["20001231"], {"time_unit": "s"}, [20001231], "s"),
        (["20001231", "20001300"], {}, [20001231, 20001300], "s"),  # there is no 13th month
        (["978300760.25", "5.0"], {}, [978300760250, 5000], "ms"),
        (["978300760.000001", "5"], {}, [978300760000001, 5000000], "us"),
        (["1.5", "2"], {"time_unit": "s"}, [1500, 2000], "ms"),
        (["978300760000.5"], {}, [978300760000500], "us"),
        (["978300760000001"], {}, [978300760000001], "us"),
        (["978300760000000001", "0"], {}, [978300760000000001, 0], "ns"),
        (["1.1234567"], {"time_unit": "s"}, [1123457], "us"),  # no finer than the next but one
        (["5", "20201231"], {}, [5, 20201231], "s"),  # not all look like dates
        (["5"], {"time_unit": "us"}, [5], "us"),
        (["5"], {"time_unit": "ns"}, [5], "ns"),
        (["2000-12-31T22:12:40.000001Z"], {}, [978300760000001], "us"),
        (["2000-12-31T22:12:40.000000001Z"], {}, [978300760000000001], "ns"),
        (["2000-12-31T22:12:40.25Z"], {"time_unit": "s"}, [978300760250], "ms"),
        (["2000-12-31T22:12:40.25Z"], {"time_unit": "us"}, [978300760250000], "us"),
    ],
)
def test_times(
    tmp_path: Path, written: list[str], options: dict[str, Any], ticks: list[int], unit: str
) -> None:
    rows = "".join(f"{n},1,5,{time}\n" for n, time in enumerate(written))
    log, report = read_interactions(write(tmp_path, "log.csv", HEADER + rows), **options)
    assert log.time.tolist() == ticks
    assert log.time_unit == report.time_unit == unit
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    assert f" {names[unit]}" in report.time_note


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_texts_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    content = (HEADER + "zoé,2,5,3\n").encode(encoding)
    log, _ = read_interactions(write(tmp_path, "log.csv", content), encoding=encoding)
    assert log.users.ids == ["zoé"]


def test_times_of_a_frame_may_be_datetimes() -> None:
    frame = pd.DataFrame({"user_id": [1, 2], "item_id": [1, 2], "rating": [5, 5]})
    naive = pd.to_datetime(["2000-12-31", "2001-01-01"])
    assert columns(frame.assign(timestamp=naive))[2] == [978220800, 978307200]
    zoned = naive.tz_localize("Europe/Berlin")
    assert columns(frame.assign(timestamp=zoned))[2] == [978217200, 978303600]
    dates = [stamp.date() for stamp in naive]
    assert columns(frame.assign(timestamp=dates))[2] == [978220800, 978307200]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            "user,item_id,rating,timestamp\n1,2,5,3\n",
            {},
            "no column 'user_id' for the user id .did you mean 'user'",
        ),
        (HEADER + "1,2,5,3\n", {"rating": "stars"}, "no column 'stars' for the rating"),
        (
            HEADER + "1,2,5,3\n",
            {"rules": {"explicit_positive": "ratng == 5"}},
            "no column 'ratng' for the feedback rules .did you mean 'rating'",
        ),
        (
            HEADER + "1,2,5,3\n\n1,2,5,yesterday\n",
            {},
            f"line 4 of .*log.csv, column 'timestamp': 'yesterday' is not a valid time; {ISO}",
        ),
        (
            HEADER + '"a\nb",2,5,3\n1,2,5,x\n',
            {},
            "line 4 of .*log.csv, column 'timestamp': 'x'",
        ),
        (HEADER + "  \n\n1,2,5,3\n1,2,5,x\n", {}, "line 5 of .*log.csv, column 'timestamp': 'x'"),
        (
            HEADER + " \t\n1,2,5,3\n\x1f\n",
            {},
            "line 4 of .*log.csv, column 'item_id': the item id is missing",
        ),
        (
            HEADER + '1,2,5,3\n\n" "\n',
            {},
            "line 4 of .*log.csv, column 'item_id': the item id is missing",
        ),
        (HEADER + "1,2,5,2000-13-45\n", {}, "line 2 of .*'2000-13-45' is not a valid time"),
        (
            HEADER + "1,2,5,2000-12-31\n1,2,5,2000-12-30\n1,2,5,7\n",
            {},
            "line 4 of .*'7' does not fit the others",
        ),
        (
            HEADER + "1,2,5,2000-12-31\n",
            {"time_format": "%d.%m.%Y"},
            "'2000-12-31' is not a valid time; expected a date such as '%d.%m.%Y'",
        ),
        (HEADER + "1,2,5,3\n1,2,5,\n", {}, "line 3 of .*: the time is missing"),
        (HEADER + "1,2,5,True\n", {}, "line 2 of .*: True is not a valid time"),
        (HEADER + "1,2,5,inf\n", {}, "line 2 of .*: inf is not a valid time"),
        (HEADER + "1,2,5,-3\n", {}, "line 2 of .*'timestamp': -3 is negative; times start in"),
        (HEADER + "1,2,5,1969-12-31\n", {}, "'1969-12-31' is before 1970"),
        (
            HEADER + "1,2,5,978300760000\n1,2,5,978300760\n",
            {},
            "line 3 of .*: 978300760 looks like seconds, 978300760000 at line 2 of",
        ),
        (HEADER + "1,2,5,9300000000000000000\n", {}, "is too large for nanoseconds since 1970"),
        (
            HEADER + "1,2,5,1.5\n",
            {"time_unit": "ns"},
            "line 2 of .*: 1.5 is a fraction of a nanosecond",
        ),
        (
            HEADER + "1,2,5,2500-01-01\n",
            {"time_unit": "ns"},
            # In pandas 2 dates are nanoseconds, so that one is not a date.
            f"'2500-01-01' is {'not a valid time' if PANDAS_2 else 'too late to be kept as nano'}",
        ),
        (
            HEADER.replace(",", ";") + "1;2;5;3\n1;3;7,5;4\n",
            {},
            "line 3 of .*log.csv, column 'rating': '7,5' is not a finite number; .*data.decimal=,",
        ),
        (HEADER + "1,2,5,3\n1,3,-inf,4\n", {}, "line 3 of .*'rating': -inf is not a finite number"),
        (
            HEADER + "1,2,5,3\n1,3,five,4\n1,3,six,4\n",
            {},
            "line 3 of .*: 'five' is not a finite number.*2 rows are like that",
        ),
        (HEADER + ",2,5,3\n", {}, "line 2 of .*'user_id': the user id is missing; every row"),
        (HEADER + "1,,5,3\n", {}, "line 2 of .*'item_id': the item id is missing"),
        ("", {}, "log.csv is empty; one line per interaction is expected"),
        ("\n \n", {}, "log.csv is empty"),
        (HEADER, {}, "log.csv has a header and no rows"),
        (
            "user_id,item_id,rating,rating,timestamp\n1,2,3,3,4\n",
            {},
            "log.csv names column 'rating' 2 times",
        ),
        (HEADER + "1,2,5,3,9\n1,2,5,3,9\n", {}, "rows have more cells than the header has names"),
        (HEADER + "1,2,5,3\n1,2,5,3,9\n", {}, "does not fit the header: .*line 3, saw 5"),
        (HEADER + '1,2,5,"3\n', {}, "does not fit the header: .*check the delimiter and the quote"),
        ((HEADER + "zoé,2,5,3\n").encode("latin-1"), {}, "not utf-8 text .*--set .*=latin-1"),
        ((HEADER + "zoé,2,5,3\n").encode("utf-16"), {}, "not utf-8 text .*encoding='utf-16'"),
        (HEADER + "1,2,5,20001231\n", {}, "20001231 looks like a date.*--set .*format=%Y%m%d"),
        (HEADER + "1,2,5,0\n1,3,5,20001231\n", {}, "line 3.*20001231 looks like a date"),
        (HEADER + "1,2,5,200012312212\n", {}, "looks like a date.*format='%Y%m%d%H%M'\\)"),
        (HEADER + "1,2,5,20001231221240\n", {}, "looks like a date.*format='%Y%m%d%H%M%S'\\)"),
        (HEADER + "1,2,5,3\n", {"encoding": "klingon"}, "unknown encoding: klingon"),
        (
            HEADER + "1,2,5,3\n",
            {"time_unit": "min"},
            "must be one of auto, s, ms, us, ns, got 'min'",
        ),
        (
            HEADER + "1,2,5,3\n",
            {"rules": {"explicit_positive": "open('x')"}},
            "explicit_positive: a function call is not allowed",
        ),
        (
            HEADER + "1,2,0,3\n1,4,,3\n",
            {},
            r"log.csv .2 rows, 2 of them not rated.: rules 'ratings': no rule matches any of the "
            r"2 rows[\s\S]*0\.0\s+NaN",
        ),
        (
            "user_id,item_id,kind,timestamp\n1,2,explicit_positive,3\n1,2,meh,4\n",
            {"feedback": "kind"},
            "line 3 of .*'kind': unknown kind of feedback 'meh'; the kinds are",
        ),
        (
            "user_id,item_id,kind,timestamp\n1,2,explicit_positive,3\n1,2,,4\n",
            {"feedback": "kind"},
            "line 3 of .*'kind': the feedback is missing",
        ),
    ],
)
def test_bad_text_files_are_named_by_line_column_and_value(
    tmp_path: Path, content: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_interactions(write(tmp_path, "log.csv", content), **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (ONE + "\n" + ONE.replace("3", '"x"'), "line 3 of .*log.jsonl, .*'x' is not a valid time"),
        (ONE + '{"user_id":\n', "line 2 of .*log.jsonl: not a JSON object; each line must be"),
        (ONE + "5\n", "line 2 of .*log.jsonl: not a JSON object"),
        ("[1, 2]\n", "line 1 of .*log.jsonl: not a JSON object"),
        (ONE.replace("2", "null"), "line 1 of .*'item_id': the item id is missing"),
        ('{"user": 1}\n', "no column 'user_id' .*did you mean 'user'"),
        ("", "log.jsonl is empty"),
        ('{"user_id":"é"}\n'.encode("latin-1"), "not utf-8 text"),
    ],
)
def test_bad_json_lines(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_interactions(write(tmp_path, "log.jsonl", content))


@pytest.mark.parametrize("name", ["log.csv.gz", "log.jsonl.gz"])
def test_truncated_and_false_gz(tmp_path: Path, name: str) -> None:
    rows = HEADER + "1,2,5,3\n" * 5000 if "csv" in name else ONE * 5000
    packed = gzip.compress(rows.encode())
    path = tmp_path / name
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=f"{name}: the compressed file is truncated or damaged"):
        read_interactions(path)
    path.write_text(rows)
    with pytest.raises(DataError, match="truncated or damaged .Not a gzipped file"):
        read_interactions(path)


def test_paths_that_are_no_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.csv: there is no such file"):
        read_interactions(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="is a folder; give a file"):
        read_interactions(tmp_path, file_format="csv")
    with pytest.raises(
        DataError,
        match="unknown file format '.xls'; rename the file or",
    ):
        read_interactions(write(tmp_path, "log.xls", "x"))
    with pytest.raises(DataError, match="not a readable parquet file"):
        read_interactions(write(tmp_path, "log.parquet", "x"))


def test_bad_data_frames_are_named_by_row() -> None:
    frame = pd.DataFrame(
        {"user_id": [1, 2], "item_id": [1, None], "rating": [5, 5], "timestamp": [1, 2]},
        index=[7, 8],
    )
    with pytest.raises(DataError, match="row 2 of the DataFrame, column 'item_id': the item id"):
        read_interactions(frame)
    with pytest.raises(DataError, match="the DataFrame has no rows"):
        read_interactions(frame.head(0))
    twice = frame.set_axis(["user_id", "user_id", "rating", "timestamp"], axis=1)
    with pytest.raises(DataError, match="names column 'user_id' 2 times"):
        read_interactions(twice)


@pytest.mark.parametrize(
    "rows",
    ["u,1,5,3\nu,2,4,4\n", "u,1,5,3\nv,1,4,4\n", "u,1,5,3\nv,2,4,3\n", "u,1,5,3\n"],
    ids=["one user", "one item", "all at the same time", "one row"],
)
def test_small_logs_are_legal(tmp_path: Path, rows: str) -> None:
    log, _ = read_interactions(write(tmp_path, "log.csv", HEADER + rows))
    assert len(log) == rows.count("\n")


def test_the_report_counts_what_was_dropped_and_why(tmp_path: Path) -> None:
    rows = ["1,2,5,3", "1,2,5,3", "1,2,4,3", "9,3,0,3", "1,9,1,3", "1,3,5,4", "8,3,,3"]
    path = write(tmp_path, "log.csv", HEADER + "\n".join(rows) + "\n")
    rules = {
        "explicit_positive": "rating == 5",
        "implicit_positive": "rating == 4",
        "explicit_negative": "rating == 2",
    }
    log, report = read_interactions(path, rules=rules)
    assert log.users.ids == [1] and log.items.ids == [2, 3]  # dropped rows leave no ids
    assert log.time.tolist() == [3, 3, 4] and log.feedback.tolist() == [0, 1, 0]
    assert report == ReadReport(
        source=str(path),
        rows_read=7,
        rows_kept=3,
        dropped={"not rated": 2, "no rule matches": 1, "duplicate": 1},
        feedback={
            Feedback.EXPLICIT_POSITIVE: 2,
            Feedback.IMPLICIT_POSITIVE: 1,
            Feedback.IMPLICIT_NEGATIVE: 0,
            Feedback.EXPLICIT_NEGATIVE: 0,
        },
        unused_rules=("explicit_negative = 'rating == 2'",),
        time_unit="s",
        time_note="times read as seconds by their size: 1970-01-01 to 1970-01-01 (UTC)",
    )
    said = str(report)
    assert "3 of 7 rows kept" in said
    assert "dropped: 2 not rated, 1 no rule matches, 1 duplicate" in said
    assert "a rule matches no row: explicit_negative" in said
    assert report.dropped_note == (
        f"{path}: 4 of 7 rows are left out: 2 not rated, 1 no rule matches, 1 duplicate"
    )


def test_rules_over_other_columns_and_as_any_type(tmp_path: Path) -> None:
    path = write(tmp_path, "log.csv", "user_id,item_id,timestamp,ratio\n1,1,1,0.9\n1,2,2,\n")
    table = {"implicit_positive": "ratio > 0.5", "implicit_negative": "not ratio > 0.5"}
    file = tmp_path / "mine.toml"
    file.write_text("\n".join(f'{kind} = "{text}"' for kind, text in table.items()))
    for rules in (table, file, str(file), FeedbackRules.from_dict(table)):
        log, _ = read_interactions(path, rules=rules)
        assert log.feedback.tolist() == [1, 2]


def test_what_rules_compare_with_text_is_read_as_text(tmp_path: Path) -> None:
    rules = {"explicit_negative": "channel == '07' or verdict == 'None'"}
    header = HEADER.replace("rating", "channel,verdict")
    path = write(tmp_path, "log.csv", header + "a,1,07,,1\nb,1,7,None,2\nc,1,7,,3\n")
    log, _ = read_interactions(path, rules=rules)
    assert log.users.ids == ["a", "b"]


def test_ids_that_look_like_missing_ones_are_told(tmp_path: Path) -> None:
    path = write(tmp_path, "log.csv", HEADER + "NULL,1,5,3\nNA,1,5,3\nNULL,2,5,3\n")
    with pytest.warns(UserWarning, match=r"column 'user_id': 'NULL' is read as an id \(2 rows\)"):
        log, _ = read_interactions(path)
    assert log.users.ids == ["NULL", "NA"]


def test_a_frame_with_numbers_for_names() -> None:
    frame = pd.DataFrame([[1, 2, 5, 3], [1, 3, 4, 4]])
    log, _ = read_interactions(frame, user="0", item="1", rating="2", time="3")
    assert log.items.ids == [2, 3]


def test_a_column_may_hold_the_feedback_itself(tmp_path: Path) -> None:
    content = "user_id,item_id,kind,timestamp\n1,1,explicit_negative,3\n1,2,implicit_positive,4\n"
    log, report = read_interactions(write(tmp_path, "log.csv", content), feedback="kind")
    assert log.feedback.tolist() == [3, 1]
    assert report.dropped == {"not rated": 0, "no rule matches": 0, "duplicate": 0}


class TestFeedbackValues:
    FRAME = pd.DataFrame({"user_id": 1, "item_id": range(4), "timestamp": range(4)})

    def test_are_taken_from_a_frame(self) -> None:
        objects = self.FRAME.assign(kind=pd.Series(list(Feedback), dtype=object))
        log, _ = read_interactions(objects, feedback="kind")
        assert log.feedback.tolist() == [0, 1, 2, 3]
        numbers = self.FRAME.assign(kind=list(reversed(Feedback)))
        assert pd.api.types.is_integer_dtype(numbers["kind"])
        with pytest.warns(UserWarning, match="read as values of Feedback .0 explicit_positive"):
            log, _ = read_interactions(numbers, feedback="kind")
        assert log.feedback.tolist() == [3, 2, 1, 0]

    @pytest.mark.parametrize(
        ("kinds", "message"),
        [
            ([0, 1, 1, 0], "column 'kind': 0 and 1 may be thumbs or values of Feedback"),
            ([0, 1, 4, 3], "row 3 of the DataFrame, column 'kind': 4 is not a kind of feedback"),
            ([0, -1, 2, 3], "row 2 of the DataFrame, column 'kind': -1 is not a kind of feedback"),
        ],
    )
    def test_must_not_be_something_else(self, kinds: list[int], message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_interactions(self.FRAME.assign(kind=kinds), feedback="kind")


NAMES = ["user_id", "item_id", "rating", "timestamp"]


class TestNames:
    def test_of_a_file_without_a_header(self, tmp_path: Path) -> None:
        path = write(tmp_path, "u.data", "7\t1\t5\t30\n8\t2\t4\t20\n")
        assert columns(path, names=NAMES) == ([7, 8], [1, 2], [30, 20])

    def test_a_first_line_of_these_names_is_a_header(self, tmp_path: Path) -> None:
        path = write(tmp_path, "log.csv", HEADER + "7,1,5,30\n8,2,x,20\n")
        with pytest.raises(DataError, match="line 3 of .*log.csv, column 'rating': 'x'"):
            columns(path, names=NAMES)
        write(tmp_path, "log.csv", HEADER + "7,1,5,30\n8,2,4,20\n")
        assert columns(path, names=NAMES) == ([7, 8], [1, 2], [30, 20])

    def test_as_many_as_columns(self, tmp_path: Path) -> None:
        path = write(tmp_path, "log.csv", "7,1,5,30,x\n8,2,4,20,y\n")
        message = r"4 columns are named \(user_id, .*\), but the first line has 5: '7,1,5,30,x'"
        with pytest.raises(DataError, match=message):
            columns(path, names=NAMES)
        with pytest.raises(DataError, match="names column 'x' 2 times"):
            columns(path, names=[*NAMES[:3], "x", "x"])

    def test_missing_where_the_first_line_looks_like_a_row(self, tmp_path: Path) -> None:
        path = write(tmp_path, "log.csv", "ann,1,5,30\nbob,2,4,20\n")
        message = "no column 'user_id' .* first line is a row, .* --set data.names=user_id,item_id,"
        with pytest.raises(DataError, match=message):
            columns(path)


def test_decimal_commas(tmp_path: Path) -> None:
    rules = {"explicit_positive": "rating >= 4.5", "explicit_negative": "rating < 4.5"}
    path = write(tmp_path, "log.csv", HEADER.replace(",", ";") + "7;1;4,5;30\n8;2;4;20\n")
    log, _ = read_interactions(path, rules=rules, decimal=",")
    assert log.feedback.tolist() == [Feedback.EXPLICIT_POSITIVE, Feedback.EXPLICIT_NEGATIVE]
    path = write(tmp_path, "log.csv", HEADER + '7,1,"4,5",30\n8,2,4,20\n')
    log, _ = read_interactions(path, rules=rules, decimal=",")
    assert log.feedback.tolist() == [Feedback.EXPLICIT_POSITIVE, Feedback.EXPLICIT_NEGATIVE]


class TestLogsWithoutTimes:
    HEADER = "user_id,item_id,rating\n"
    ROWS = "a,1,5\nb,1,4\na,2,1\na,1,5\n"

    def test_keep_the_order_of_rows(self, tmp_path: Path) -> None:
        log, report = read_interactions(
            write(tmp_path, "log.csv", self.HEADER + self.ROWS), time=""
        )
        assert log.users.lookup(log.user) == ["a", "b", "a", "a"]  # a repeat is another event
        assert log.time.tolist() == [0] * 4
        assert log.time_unit == report.time_unit == "none"
        assert "the order of rows is that of events" in report.time_note
        assert "a model cannot learn from elapsed time" in report.time_note

    def test_without_an_order_are_shuffled_always_alike(self, tmp_path: Path) -> None:
        rows = "".join(f"u,{n},5\n" for n in range(50))
        path = write(tmp_path, "log.csv", self.HEADER + rows)
        items = [columns(path, time="", order="none")[1] for _ in range(2)]
        assert items[0] == items[1] != list(range(50))
        assert sorted(items[0]) == list(range(50))
        _, report = read_interactions(path, time="", order="none")
        assert "held-out events are random" in report.time_note

    def test_of_a_file_that_has_none_are_advised(self, tmp_path: Path) -> None:
        path = write(tmp_path, "log.csv", self.HEADER + self.ROWS)
        with pytest.raises(DataError, match="for a log without times, leave NAME empty"):
            read_interactions(path)
        with pytest.raises(ValueError, match="order must be 'file' or 'none', got 'any'"):
            read_interactions(path, time="", order="any")  # type: ignore[arg-type]


class TestIds:
    def test_with_a_delimiter_of_several_characters_in_quotes(self, tmp_path: Path) -> None:
        content = HEADER.replace(",", "::") + '"a::b"::"c""::"::5::3\nx::y::4::2\n'
        users, items, _ = columns(write(tmp_path, "log.dat", content))
        assert users == ["a::b", "x"]
        assert items == ['c"::', "y"]

    @pytest.mark.parametrize("suffix", ["csv", "dat", "jsonl", "parquet"])
    def test_of_any_characters_come_out_as_they_went_in(self, tmp_path: Path, suffix: str) -> None:
        users = ["\x1b[31mred\x07", "a\rb", "c\r\nd", "e\nf", ' "q" ', "=1+1", "'", "\t", "nul"]
        users += [
            "a,b",
            "a::b",
            "\u202eright",
            "ｆｕｌｌ",
            "\u00e9",
            "e\u0301",
            "#",
            "\\N",
            "\x7f",
            "\x9b",
        ]
        frame = pd.DataFrame({"user_id": users, "item_id": "i", "rating": 5, "timestamp": 3})
        path = tmp_path / f"log.{suffix}"
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
            frame.to_parquet(path)
        elif suffix == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            separator = "," if suffix == "csv" else "::"
            lines = (
                separator.join('"' + str(cell).replace('"', '""') + '"' for cell in row)
                for row in [frame.columns, *frame.itertuples(index=False)]
            )
            path.write_bytes("\n".join(lines).encode())
        assert columns(path)[0] == users

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ([1.5, 2.0], "row 1 of the DataFrame, column 'item_id': the id 1.5 is neither"),
            ([1, "1"], "the DataFrame, column 'item_id': id 1 occurs as '1' too"),
            (["a", ""], "row 2 of the DataFrame, column 'item_id': an id is empty"),
            ([b"a", b"b"], "row 1 of .*the id b'a' is neither text nor a whole number"),
        ],
    )
    def test_of_frames_that_cannot_be_kept_are_refused(self, ids: list[Any], message: str) -> None:
        frame = pd.DataFrame({"user_id": "u", "item_id": ids, "rating": 5, "timestamp": 3})
        with pytest.raises(DataError, match=message):
            read_interactions(frame)

    def test_of_rows_that_are_left_out_do_not_shift_the_place(self) -> None:
        frame = pd.DataFrame(
            {"user_id": "u", "item_id": ["a", "b", ""], "rating": [0, 5, 5], "timestamp": 3}
        )
        with pytest.raises(DataError, match="row 3 of the DataFrame, column 'item_id': an id"):
            read_interactions(frame)

    def test_of_json_keep_their_type(self, tmp_path: Path) -> None:
        path = write(tmp_path, "log.jsonl", ONE + ONE.replace("1,", '"a",'))
        assert columns(path)[0] == [1, "a"]
        path = write(tmp_path, "log.jsonl", ONE + ONE.replace("1,", '"1",'))
        with pytest.raises(DataError, match="log.jsonl, column 'user_id': id 1 occurs as '1' too"):
            read_interactions(path)
        path = write(tmp_path, "log.jsonl", ONE + ONE.replace("1,", '"\\ud800",'))
        with pytest.raises(
            DataError, match=r"line 2 of .*an escape such as \\ud800 is a lone surrogate"
        ):
            read_interactions(path)


def test_tables_of_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"user_id": ["a"], "item_id": [2], "rating": [5], "timestamp": [3]})
    table = arrow.Table.from_pandas(frame)
    assert columns(table) == (["a"], [2], [3])
    assert columns(table.to_reader()) == (["a"], [2], [3])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"reading a Table of pyarrow needs pyarrow: pip install"):
        read_interactions(table)


def test_thumbs_in_words(tmp_path: Path) -> None:
    path = write(tmp_path, "log.csv", HEADER + "a,1,up,3\na,2,down,4\na,3,,5\n")
    with pytest.raises(DataError, match="""such as explicit_positive = "rating == 'up'\""""):
        read_interactions(path)
    rules = {"explicit_positive": "rating == 'up'", "explicit_negative": "rating == 'down'"}
    log, report = read_interactions(path, rules=rules)
    assert log.feedback.tolist() == [Feedback.EXPLICIT_POSITIVE, Feedback.EXPLICIT_NEGATIVE]
    assert report.dropped["not rated"] == 1


def test_percent_signs(tmp_path: Path) -> None:
    path = write(tmp_path, "log.csv", HEADER + "a,1,85%,3\n")
    with pytest.raises(DataError, match="'85%' is not a finite number; .* without the sign"):
        read_interactions(path)


def test_plays_without_ratings_are_advised(tmp_path: Path) -> None:
    path = write(tmp_path, "log.csv", "user_id,item_id,timestamp\na,1,3\na,2,4\n")
    with pytest.raises(DataError, match='save implicit_positive = "True" in a file and give --set'):
        read_interactions(path)
    log, _ = read_interactions(path, rules={"implicit_positive": "True"})
    assert log.feedback.tolist() == [Feedback.IMPLICIT_POSITIVE] * 2


def test_errors_about_events_of_a_model_advise_no_settings(tmp_path: Path) -> None:
    for content in (
        HEADER.replace("user_id", "who") + "a,1,5,3\n",
        "a,1,5,3\nb,1,5,4\n",
        HEADER + "a,1,5,soon\n",
        HEADER + "a,1,7,3\n",
        HEADER + 'a,1,"4,5",3\n',
        HEADER + "a,1,five,3\n",
        HEADER + "a,1,5,20201231\n",
        "user_id,item_id,timestamp\na,1,3\n",
        (HEADER + "zoé,2,5,3\n").encode("latin-1"),
    ):
        with pytest.raises(DataError) as error:
            read_interactions(write(tmp_path, "log.csv", content), rules="ratings", settable=False)
        assert "--set" not in str(error.value)


def test_events_need_rules_or_kinds() -> None:
    table = Table.of_frame(pd.DataFrame({"user_id": [1], "item_id": [2], "timestamp": [3]}))
    with pytest.raises(ValueError, match="either rules or a column of feedback must be given"):
        interactions_of_table(table)


def test_a_delimiter_of_several_characters_needs_one_that_is_free(tmp_path: Path) -> None:
    row = "a\x1f\x1e\x1d\x1c\x01\x02::1::5::3\n"
    path = write(tmp_path, "log.csv", HEADER.replace(",", "::") + row)
    with pytest.raises(DataError, match="a file with delimiter '::' must not hold control char"):
        read_interactions(path, delimiter="::")


@pytest.mark.parametrize("wrong", [b"\x80", "\ud800", ["\udfff"]])
@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("timestamp", "column 'timestamp': .* is not a valid time"),
        ("rating", "column 'rating': .* is not a finite number"),
        ("user_id", "row 2 .*the id .* (is not valid Unicode|is neither text nor a whole number)"),
    ],
)
def test_bytes_and_broken_unicode_are_refused(wrong: Any, column: str, message: str) -> None:
    table = {"user_id": ["a", "b"], "item_id": ["x", "y"], "rating": [5, 1], "timestamp": [1, 2]}
    frame = pd.DataFrame(table).astype(object)
    frame.at[1, column] = wrong
    with pytest.raises(DataError, match=message):
        read_interactions(frame)


@pytest.mark.parametrize("wrong", [b"\x80", "\ud800"])
def test_rules_see_no_text_in_broken_unicode(wrong: Any) -> None:
    frame = pd.DataFrame(
        {"user_id": [1, 1], "item_id": [1, 2], "rating": ["good", wrong], "timestamp": [1, 2]},
        dtype=object,
    )
    log, report = read_interactions(frame, rules={"explicit_positive": "rating == 'good'"})
    assert len(log) == 1 and report.dropped["no rule matches"] == 1
