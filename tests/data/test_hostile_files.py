"""Files that are broken on purpose: one line that says so, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from emorec.data import files
from emorec.data.datasets import load_dataset
from emorec.data.describe import describe
from emorec.data.formats import read_kuairand, read_movielens
from emorec.data.readers import DataError, read_interactions
from emorec.data.table_files import read_table
from tests.small import PANDAS_2

# pandas 2 reads numbers beyond int64 as text.
HUGE = r"'-?9{99,}\.\.\.'" if PANDAS_2 else "'a number of 1329 bits'"
HEADER = "user_id,item_id,rating,timestamp\n"
ROWS = "".join(f"u{n % 3},i{n},{1 + n % 5},{1000 + n}\n" for n in range(9))
MEMBER = "ml-1m/ratings.dat"


def refused(read, *arguments, message, **options):
    with pytest.raises(ValueError, match=message) as caught:
        read(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 1000, text


def zipped(path: Path, method: int = zipfile.ZIP_STORED, text: str = "1::2::5::3\n2::3::4::5\n"):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(MEMBER, text)
    return path


class TestNumbers:
    @pytest.mark.parametrize("number", ["9" * 400, "-" + "9" * 400])
    def test_ratings_of_400_digits(self, tmp_path, number):
        message = f"column 'rating': {HUGE} is not a finite number"
        path = tmp_path / "log.csv"
        path.write_text(f"{HEADER}{ROWS}u,i,{number},1000\n")
        refused(read_interactions, path, message=f"line 11 of .*{message}")
        path = tmp_path / "log.jsonl"
        path.write_text(f'{{"user_id":1,"item_id":2,"rating":{number},"timestamp":5}}\n')
        whole_file = "is too large to be read"  # what pandas 2 says
        expected = whole_file if PANDAS_2 else f"line 1 of .*{message}"
        refused(read_interactions, path, message=expected)
        if not PANDAS_2:  # whose frames cannot hold such numbers
            columns = {"user_id": [1, 2], "item_id": [1, 2], "timestamp": [1, 2]}
            frame = pd.DataFrame({**columns, "rating": [5, int(number)]})
            refused(read_interactions, frame, message=f"row 2 of the DataFrame, {message}")

    def test_times_of_400_digits(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text(f"{HEADER}u,i,5,{'9' * 400}\n")
        refused(read_interactions, path, message=f"'timestamp': {HUGE} is ")

    def test_ids_of_400_digits_are_text(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text(f"{HEADER}{ROWS}{'9' * 400},i,5,1000\n")
        assert read_interactions(path)[0].users.ids[-1] == "9" * 400

    def test_beyond_int64_in_a_file_whose_delimiter_has_two_characters(self, tmp_path):
        path = tmp_path / "log.dat"
        path.write_text(f"{HEADER}{ROWS}u,i,{'9' * 25},1000\n".replace(",", "::"))
        with pytest.raises(DataError, match=r"log.dat: ratings go from 1 to 1e\+25"):
            read_interactions(path)

    def test_more_digits_than_python_reads(self, tmp_path):
        path = tmp_path / "log.jsonl"
        path.write_text(f'{{"user_id":{"9" * 5000}}}\n')
        refused(read_interactions, path, message="line 1 of .*: not a JSON object")

    @pytest.mark.skipif(PANDAS_2, reason="pandas 2 reads them as text")
    def test_rules_compare_numbers_of_400_digits(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text(
            "user_id,item_id,plays,timestamp\n" + f"u,i,{'9' * 400},5\nu,i,-{'9' * 400},6\n"
        )
        rules = {"explicit_positive": "plays > 5", "explicit_negative": "plays <= 5"}
        log, _ = read_interactions(path, rules=rules)
        assert log.feedback.tolist() == [0, 3]


class TestArchives:
    @pytest.mark.parametrize(
        ("header", "directory", "value", "message"),
        [
            (6, 8, 1, "cannot be unpacked here .*is encrypted, password required"),
            (8, 10, 99, "cannot be unpacked here .That compression method is not supported"),
        ],
    )
    def test_encrypted_or_packed_in_an_unknown_way(
        self, tmp_path, header, directory, value, message
    ):
        path = zipped(tmp_path / "ml-1m.zip")
        content = bytearray(path.read_bytes())
        content[header] = content[content.find(b"PK\1\2") + directory] = value
        path.write_bytes(content)
        refused(read_movielens, path, member=MEMBER, message=message)

    def test_a_bomb(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "FREE_SIZE", 10_000)
        text = "1::2::5::3\n" * 100_000
        path = zipped(tmp_path / "bomb.zip", zipfile.ZIP_DEFLATED, text)
        size = path.stat().st_size
        message = f"bomb.zip:{MEMBER}: unpacks to more than 200 times its {size:,} bytes"
        refused(read_movielens, path, member=MEMBER, message=message)
        path = tmp_path / "bomb.csv.gz"
        path.write_bytes(gzip.compress((HEADER + "u,i,5,1\n" * 500_000).encode()))
        refused(read_interactions, path, message="bomb.csv.gz: unpacks to more than 200 times")
        monkeypatch.setattr(files, "FREE_SIZE", 10_000_000)
        assert len(read_interactions(path)[0]) == 1

    def test_a_parquet_file_of_one_value_repeated(self, tmp_path, monkeypatch):
        pytest.importorskip("pyarrow")
        path = tmp_path / "log.parquet"
        pd.DataFrame({"user_id": [1], "item_id": [1]}).loc[[0] * 10**6].to_parquet(path)
        monkeypatch.setattr(files, "FREE_SIZE", 15_999_999)
        refused(read_interactions, path, message="log.parquet: unpacks to more than 200 times")

    @pytest.mark.filterwarnings("ignore")  # of what the rules make of changed ratings
    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_every_byte_changed(self, tmp_path, method):
        whole = zipped(tmp_path / "ml-1m.zip", method).read_bytes()
        path = tmp_path / "changed.zip"
        for place in range(len(whole)):
            content = bytearray(whole)
            content[place] ^= 0x55
            path.write_bytes(content)
            try:
                read_movielens(path, member=MEMBER)
            except ValueError as error:
                assert "\n" not in str(error)

    @pytest.mark.parametrize("mode", ["gz", "xz", "bz2"])
    def test_a_tar_archive_cut_short(self, tmp_path, mode):
        log = tmp_path / "log.csv"
        log.write_text("user_id,video_id,time_ms\n1,2,3\n")
        path = tmp_path / f"logs.tar.{mode}"
        with tarfile.open(path, f"w:{mode}") as archive:
            archive.add(log, "log.csv")
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(DataError):
                read_kuairand(path, members=["log.csv"])

    def test_a_tar_bomb_is_given_up_before_it_is_unpacked(self, tmp_path, monkeypatch):
        zeros = tmp_path / "zeros"
        zeros.touch()
        os.truncate(zeros, 10**7)
        path = tmp_path / "KuaiRand-Pure.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(zeros, "zeros")
        monkeypatch.setattr(files, "FREE_SIZE", 10**6)
        message = "KuaiRand-Pure.tar.gz: unpacks to more than 200 times"
        refused(read_kuairand, path, members=["a.csv"], message=message)
        refused(load_dataset, "kuairand-pure", tmp_path, message=message)

    def test_a_tar_archive_without_the_file(self, tmp_path):
        (tmp_path / "a.csv").write_text(HEADER + ROWS)
        with tarfile.open(tmp_path / "log.tar", "w") as archive:
            archive.add(tmp_path / "a.csv", "a.csv")
        assert len(read_table(tmp_path / "log.tar", member="a.csv").frame) == 9
        message = "log.tar:b.csv: not a readable archive: .*there is no file 'b.csv' in it"
        refused(read_table, tmp_path / "log.tar", member="b.csv", message=message)

    def test_a_parquet_file_in_it_has_no_lines(self, tmp_path, monkeypatch):
        pytest.importorskip("pyarrow")
        monkeypatch.setattr(files, "MAX_LINE", 10)
        frame = pd.DataFrame({"user_id": ["a" * 40], "item_id": [1]})
        frame.to_parquet(tmp_path / "log.parquet")
        with zipfile.ZipFile(tmp_path / "log.zip", "w") as archive:
            archive.write(tmp_path / "log.parquet", "log.parquet")
        found = read_table(tmp_path / "log.zip", member="log.parquet").frame
        pd.testing.assert_frame_equal(found, frame)

    def test_in_a_data_set_of_the_registry(self, tmp_path):
        path = zipped(tmp_path / "ml-latest-small.zip")
        content = bytearray(path.read_bytes())
        content[content.find(b"PK\1\2") + 6] = 99  # a version of zip to come
        path.write_bytes(content)
        with pytest.raises(DataError, match="the archive is truncated or damaged .zip file vers"):
            load_dataset("ml-latest-small", tmp_path)


class TestLines:
    @pytest.mark.parametrize("name", ["log.csv", "log.jsonl", "log.csv.gz"])
    @pytest.mark.parametrize("start", ["", HEADER, '{"user_id": 1}\n'])
    def test_too_long(self, tmp_path, monkeypatch, name, start):
        monkeypatch.setattr(files, "MAX_LINE", 200_000)
        content = (start + '{"' + "x" * 1_000_000).encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content, 0) if name.endswith(".gz") else content)
        refused(read_interactions, path, message="longer than 200,000 bytes|not a JSON object")

    def test_memory_is_bounded(self, tmp_path):
        """A line of 2 GB (a hole in the file) is given up after 16 MiB."""
        path = tmp_path / "log.csv"
        with path.open("wb") as file:
            file.write(HEADER.encode())
            file.truncate(2**31)
        refused(read_interactions, path, message="a line is longer than 16,777,216 bytes")

    def test_lines_that_end_as_on_old_machines(self, tmp_path, monkeypatch):
        monkeypatch.setattr(files, "MAX_LINE", 100)
        path = tmp_path / "log.csv"
        path.write_text((HEADER + ROWS).replace("\n", "\r"), newline="")
        assert len(read_interactions(path)[0]) == 9

    def test_a_bad_row_after_a_cell_that_the_csv_module_refuses(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text(f'{HEADER}"{"x" * 200_000}",i,5,1000\nu,i,bad,1000\n')
        refused(read_interactions, path, message="^row 2 of .*log.csv, column 'rating': 'bad' is")

    def test_deep_nesting(self, tmp_path):
        path = tmp_path / "log.jsonl"
        path.write_text("[" * 10**6)
        refused(read_interactions, path, message="line 1 of .*: not a JSON object")


class TestLists:
    """JSON holds lists and objects where words are expected."""

    @pytest.mark.parametrize("value", [[], ["like"], {"a": 1}])
    def test_for_words(self, tmp_path, value):
        path = tmp_path / "log.jsonl"
        row = {"user_id": 1, "item_id": 2, "timestamp": 3}
        path.write_text("".join(json.dumps({**row, "word": w}) + "\n" for w in ("like", value)))
        refused(
            read_interactions, path, feedback="word",
            message="line 2 of .*log.jsonl, column 'word': .* is not a kind of feedback",
        )  # fmt: skip
        path.write_text(path.read_text().replace("word", "rating"))
        assert "no rule matches 1 row, such as" in str(describe(path))


class TestColumns:
    def test_one_name_for_all(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text(",".join(["a"] * 200_000) + "\n1\n")
        refused(read_interactions, path, message="names column 'a' 200000 times")

    def test_too_many(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text(HEADER.strip() + "".join(f",c{n}" for n in range(200_000)) + "\n")
        refused(read_interactions, path, message="log.csv has more than 10,000 columns")
        path = tmp_path / "log.jsonl"
        path.write_text("".join(json.dumps({f"c{n}": 1}) + "\n" for n in range(10_001)))
        refused(read_table, path, message="log.jsonl has more than 10,000 columns")

    def test_long_values_are_shortened(self, tmp_path):
        path = tmp_path / "log.csv"
        path.write_text(f"{HEADER}u,i,{'x' * 10**5},1000\n")
        refused(read_interactions, path, message=re.escape(f"'{'x' * 100}...' is not a finite"))
        path.write_text(f"user_id,item_id,kind,timestamp\nu,i,{'x' * 10**5},1000\n")
        message = re.escape(f"unknown kind of feedback '{'x' * 100}...'")
        refused(read_interactions, path, feedback="kind", message=message)


class TestWhatIsNoFile:
    @pytest.mark.parametrize("name", ["/dev/zero", "/dev/null"])
    @pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
    def test_devices(self, tmp_path, name, file_format):
        link = tmp_path / "log.csv"
        link.symlink_to(name)
        refused(
            read_interactions, link, file_format=file_format,
            message="log.csv: cannot be read: it is a device",
        )  # fmt: skip

    def test_pipes(self, tmp_path):
        os.mkfifo(tmp_path / "log.csv")
        refused(read_interactions, tmp_path / "log.csv", message="a device, a pipe or a socket")

    @pytest.mark.parametrize("name", ["rules.toml", "/dev/zero"])
    def test_rules(self, tmp_path, name):
        (tmp_path / "rules.toml").write_text("explicit_positive = " + "[" * 3000)
        message = "there are no rules|not valid TOML: maximum recursion depth exceeded"
        refused(read_interactions, pd.DataFrame({"a": [1]}), rules=tmp_path / name, message=message)


@pytest.mark.parametrize("encoding", ["zlib", "\0", "no such", "x" * 10**5])
def test_encodings_that_are_none(tmp_path, encoding):
    path = tmp_path / "log.csv"
    path.write_text(HEADER + ROWS)
    refused(read_interactions, path, encoding=encoding, message="log.csv: ")


@pytest.mark.parametrize("error", [MemoryError("no room"), OverflowError("no room")])
def test_what_does_not_fit_into_memory(error):
    with pytest.raises(DataError, match=r"^log\.csv: is too large to be read \(no room\)$"):
        with files.readable("log.csv", "utf-8"):
            raise error
