from __future__ import annotations

import json

import pandas as pd
import pytest

from emorec.data.files import DataError
from emorec.data.id_files import IdFiles

FILES = IdFiles("user_id", "item_id")


def write(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


class TestLines:
    def test_one_id_per_line(self, tmp_path):
        path = write(tmp_path / "ids.txt", "7", "", "two words", "東京, 3", "  ")
        assert FILES.users(path) == FILES.items(path) == ["7", "two words", "東京, 3"]

    def test_a_header_is_no_id(self, tmp_path):
        path = write(tmp_path / "ids.csv", "item_id", "7", "item_id")
        assert FILES.items(path) == ["7", "item_id"]

    def test_encoding_and_ends_of_lines(self, tmp_path):
        path = tmp_path / "ids.txt"
        path.write_bytes("é\r\nü\r\n".encode("latin-1"))
        assert IdFiles("user_id", "item_id", "latin-1").items(path) == ["é", "ü"]
        path.write_bytes("\ufeffé\n".encode())
        assert FILES.items(path) == ["é"]

    @pytest.mark.parametrize("lines", [[""], ["item_id"]])
    def test_no_id(self, tmp_path, lines):
        with pytest.raises(DataError, match="ids.txt has no id; one per line is expected"):
            FILES.items(write(tmp_path / "ids.txt", *lines))

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match="gone.txt: there is no such file"):
            FILES.users(tmp_path / "gone.txt")


class TestTables:
    def test_by_user(self, tmp_path):
        path = write(tmp_path / "c.csv", "item_id,user_id,why", "7,u,x", "8,v,y", '"9,1",u,z')
        assert FILES.items(path) == {"u": ["7", "9,1"], "v": ["8"]}
        assert FILES.users(path) == ["u", "v", "u"]

    def test_a_column_among_others(self, tmp_path):
        path = write(tmp_path / "c.csv", "item_id;title", "07;Seven", "8;Eight")
        assert FILES.items(path) == ["07", "8"]

    def test_other_formats(self, tmp_path):
        rows = [{"user_id": 1, "item_id": "a"}, {"user_id": 2, "item_id": "b"}]
        lines = write(tmp_path / "c.jsonl", *map(json.dumps, rows))
        assert FILES.items(lines) == {1: ["a"], 2: ["b"]}
        pd.DataFrame(rows)[["item_id"]].to_parquet(tmp_path / "c.parquet")
        assert FILES.items(tmp_path / "c.parquet") == ["a", "b"]
        with pytest.raises(DataError, match="c.parquet: there is no column 'user_id'"):
            FILES.users(tmp_path / "c.parquet")

    def test_pairs(self, tmp_path):
        path = write(tmp_path / "p.csv", "user_id\titem_id", "1\t2", "3\t4")
        assert FILES.pairs(path).to_dict("list") == {"user": ["1", "3"], "item": ["2", "4"]}
        path = write(tmp_path / "p.csv", "user,item", "1,2")
        with pytest.raises(DataError, match="no column 'user_id'; .* columns user_id and item_id"):
            FILES.pairs(path)
        path = write(tmp_path / "p.csv", "user_id,item_id", "1,2", ",4")
        with pytest.raises(DataError, match="line 3 of .*p.csv, column 'user_id': the .* missing"):
            FILES.pairs(path)

    @pytest.mark.parametrize(
        ("value", "shown"), [([1], "[1]"), ({"a": 1}, "{'a': 1}"), (True, "True"), (1.5, "1.5")]
    )
    def test_a_value_that_is_no_id(self, tmp_path, value, shown):
        rows = [{"user_id": 2, "item_id": 3}, {"user_id": value, "item_id": value}]
        path = write(tmp_path / "c.jsonl", *map(json.dumps, rows))
        for read, column in ((FILES.users, "user_id"), (FILES.items, "user_id")):
            with pytest.raises(DataError) as caught:
                read(path)
            assert str(caught.value) == (
                f"line 2 of {path}, column {column!r}: the id {shown} is neither text nor a whole "
                "number; convert it to text"
            )
        items = write(tmp_path / "i.jsonl", *(json.dumps({"item_id": r["item_id"]}) for r in rows))
        with pytest.raises(DataError, match="line 2 of .*i.jsonl, column 'item_id': the id .* is"):
            FILES.items(items)

    def test_lists_of_parquet_are_no_ids(self, tmp_path):
        frame = pd.DataFrame({"user_id": [[1], [2]], "item_id": [3, 4]})
        frame.to_parquet(tmp_path / "c.parquet")
        for read in (FILES.users, FILES.items, FILES.pairs):
            with pytest.raises(DataError, match="row 1 of .*c.parquet, column 'user_id': the id"):
                read(tmp_path / "c.parquet")

    def test_an_id_as_a_number_and_as_text(self, tmp_path):
        path = write(tmp_path / "c.jsonl", '{"user_id": 1}', '{"user_id": "1"}')
        with pytest.raises(DataError, match="c.jsonl, column 'user_id': id 1 occurs as '1' too"):
            FILES.users(path)
