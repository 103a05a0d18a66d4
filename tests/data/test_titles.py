from __future__ import annotations

import pandas as pd
import pytest

from emorec.data.files import DataError
from emorec.data.tables import Table
from emorec.data.titles import Titles, read_titles
from emorec.data.vocabulary import Vocabulary

ITEMS = Vocabulary([7, 40, 3])


def write(path, *lines, encoding="utf-8"):
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


class TestRead:
    def test_csv_in_any_order(self, tmp_path):
        path = write(
            tmp_path / "items.csv", "title,year,item_id", "1984,1,3", '"a, b",2,7', "東,3,40"
        )
        titles, note = read_titles(path, ITEMS)
        assert titles.texts.tolist() == ["a, b", "東", "1984"]
        assert titles.as_dict() == {7: "a, b", 40: "東", 3: "1984"}
        assert note == ""

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_other_formats_and_columns(self, tmp_path, suffix):
        frame = pd.DataFrame({"id": [40, 7, 3], "name": ["é", "b", "c"]})
        path = tmp_path / f"items.{suffix}"
        if suffix == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path)
        titles, _ = read_titles(path, ITEMS, item="id", title="name")
        assert titles.texts.tolist() == ["b", "é", "c"]

    def test_encoding(self, tmp_path):
        path = write(tmp_path / "items.csv", "item_id,title", "7,é", encoding="latin-1")
        titles, _ = read_titles(path, ITEMS, encoding="latin-1")
        assert titles.as_dict() == {7: "é"}

    def test_frames_and_tables(self):
        frame = pd.DataFrame({"item_id": ["7"], "title": ["a"]})
        for source in (frame, Table.of_frame(frame)):
            assert read_titles(source, ITEMS)[0].as_dict() == {7: "a"}

    def test_what_does_not_match_is_counted(self, tmp_path):
        path = write(
            tmp_path / "items.csv", "item_id,title", "7,a", "40,", '3,"  "', "8,x", "9,y", "10,"
        )
        titles, note = read_titles(path, ITEMS)
        assert titles.texts.tolist() == ["a", None, None]
        assert note == (
            f"{path}: 2 of 3 items have no title, such as 40; 2 titles are of items that are not "
            "in the log, such as '8'"
        )
        frame = pd.DataFrame({"item_id": [7, 40, 5], "title": ["a", "b", "c"]})
        assert read_titles(frame, ITEMS)[1] == (
            "the DataFrame of items: 1 of 3 items has no title, such as 3; 1 title is of an item "
            "that is not in the log, such as 5"
        )

    def test_an_item_may_be_repeated_with_the_same_title(self, tmp_path):
        path = write(tmp_path / "items.csv", "item_id,title", "7,a", "7,", "7,a")
        assert read_titles(path, ITEMS)[0].as_dict() == {7: "a"}


class TestErrors:
    @pytest.mark.parametrize(
        "lines, message",
        [
            (["item,title", "7,a"], "no column 'item_id' .*item.*data.item_column.*'item_id'"),
            (["item_id,titles", "7,a"], "no column 'title' .*titles.*--set data.title_column=NAME"),
            (
                ["item_id,title", "7,a", ",b"],
                "line 3 of .*items.csv, column 'item_id': the item id",
            ),
            (["item_id,title", "7,a", "7,b"], "line 3 of .*'item_id': '7' has another title in a"),
            (["item_id,title", "x,a"], "no id is one of the log, such as 'x'; give .* such as 7"),
            (["item_id,title", "7,", "8,a"], "column 'title': is empty for every item of the log"),
            ([""], "items.csv is empty"),
        ],
    )
    def test_csv(self, tmp_path, lines, message):
        with pytest.raises(DataError, match=message):
            read_titles(write(tmp_path / "items.csv", *lines), ITEMS)

    def test_titles_that_are_not_text(self, tmp_path):
        path = write(tmp_path / "items.jsonl", '{"item_id": 7, "title": 1984}')
        with pytest.raises(DataError, match="line 1 of .*column 'title': 1984 is not text; write"):
            read_titles(path, ITEMS)

    def test_frames(self):
        frame = pd.DataFrame({"item_id": [7], "title": ["\ud800"]}, dtype=object)
        with pytest.raises(DataError, match="row 1 of the DataFrame of items.*a lone surrogate"):
            read_titles(frame, ITEMS)
        with pytest.raises(DataError, match="has no rows; one row per item is expected"):
            read_titles(frame[:0], ITEMS)
        with pytest.raises(TypeError, match="items must be a DataFrame .* got builtins.dict"):
            read_titles({7: "a"}, ITEMS)

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError, match="items.csv: .*no such file"):
            read_titles(tmp_path / "items.csv", ITEMS)


class TestTitles:
    titles = Titles(pd.Series(["a", None, "c"], dtype=object).to_numpy(), ITEMS)

    def test_of_ids_as_they_are_typed(self):
        assert self.titles.of(["3", 40, "nothing", 7]).tolist() == ["c", None, None, "a"]
        assert self.titles.of([]).tolist() == []

    def test_a_column_after_the_ids(self):
        frame = pd.DataFrame({"user": [1, 1], "item": [3, 40], "score": [0.2, 0.1]}, index=[5, 6])
        found = self.titles.add_to(frame)
        assert found.columns.tolist() == ["user", "item", "title", "score"]
        assert found["title"].tolist() == ["c", None]
        assert "title" not in frame
        assert self.titles.add_to(frame[:0])["title"].tolist() == []
