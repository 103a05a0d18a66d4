from __future__ import annotations

import pandas as pd
import pytest

from emorec.data.files import DataError
from emorec.data.items import read_items, require_items
from emorec.data.vocabulary import Vocabulary

LOG = Vocabulary([7, 40, 3])
FRAME = pd.DataFrame(
    {
        "item_id": [3, 99, 7, 40, 5],
        "title": ["c", "new", "a", "b", None],
        "genre": ["x", "x", "y", "x", "y"],
    }
)


class TestRead:
    def test_cold_items_follow_those_of_the_log(self):
        items, notes = read_items(FRAME, LOG, features="genre")
        assert items.features.items.ids == [7, 40, 3, 99, 5]
        assert (items.features.num_warm, items.features.num_cold) == (3, 2)
        x, y = items.features.matrix.toarray()[[1, 0]]
        assert (items.features.matrix.toarray() == [y, x, x, x, y]).all()
        assert items.titles.as_dict() == {7: "a", 40: "b", 3: "c", 99: "new"}
        assert notes == [
            "the DataFrame of items: 1 of 5 items has no title, such as 5",
            "the DataFrame of items: 2 items are not in the log and are cold items, such as 99; "
            "lists hold them if asked to (cold=True, --cold)",
        ]

    def test_without_features_other_items_are_left_out(self):
        items, notes = read_items(FRAME, LOG, features="")
        assert items.features is None
        assert items.titles.as_dict() == {7: "a", 40: "b", 3: "c"}
        assert notes == [
            "the DataFrame of items: 1 title is of an item that is not in the log, such as 99"
        ]

    def test_without_titles(self):
        items, _ = read_items(FRAME.drop(columns="title"), LOG, title="")
        assert items.titles is None and items.features.num_cold == 2
        with pytest.raises(DataError, match="or leave NAME empty if there are no titles"):
            read_items(FRAME.drop(columns="title"), LOG)

    def test_a_file_whose_ids_are_text(self, tmp_path):
        path = tmp_path / "items.csv"
        path.write_text("item_id,title,genre\n7,a,x\n40,b,y\n3,c,y\n007,d,x\n8,e,x\n")
        items, _ = read_items(path, LOG)
        assert items.features.items.ids == [7, 40, 3, "007", 8]

    def test_the_first_row_of_an_item_counts(self):
        frame = pd.DataFrame(
            {"item_id": [7, 40, 3, 7], "title": ["a", "b", "c", "a"], "genre": ["x", "y", "y", "y"]}
        )
        items, notes = read_items(frame, LOG, features="genre")
        matrix = items.features.matrix.toarray()
        assert (matrix[1] == matrix[2]).all() and (matrix[0] != matrix[1]).any()
        assert notes == [
            "the DataFrame of items: 1 row repeats an item; its features are those of the first"
        ]

    def test_columns_that_cannot_be_used(self):
        frame = FRAME.assign(nothing=None)
        _, notes = read_items(frame, LOG)
        assert (
            "the DataFrame of items: as a feature of items, column 'nothing' is empty; left out"
        ) in notes
        with pytest.raises(DataError, match="'nothing' is empty; name other columns as data.item"):
            read_items(frame, LOG, features="nothing")

    def test_ids_alone(self):
        items, notes = read_items(FRAME[["item_id"]], LOG, title="")
        assert (items.titles, items.features, notes) == (None, None, [])

    @pytest.mark.parametrize("value", [[7], {"a": 7}, True, 7.5])
    def test_a_value_that_is_no_id(self, value):
        frame = FRAME.astype({"item_id": object})
        frame.at[1, "item_id"] = value
        for features in ("*", ""):
            with pytest.raises(DataError, match="row 2 of .* column 'item_id': the id .* is neith"):
                read_items(frame, LOG, features=features)

    def test_no_id_of_the_log(self):
        with pytest.raises(DataError, match="no id is one of the log, such as 99"):
            read_items(FRAME[FRAME["item_id"] == 99], LOG)


def test_features_need_a_table():
    require_items("")
    require_items("*")
    with pytest.raises(DataError, match="item_features is 'genre', but there is no table of items"):
        require_items("genre")


def test_without_titles_and_features_there_is_nothing():
    items, notes = read_items(FRAME, LOG, title="", features="")
    assert (items.titles, items.features, notes) == (None, None, [])


def test_items_of_another_log_are_placed_anew():
    items, _ = read_items(FRAME, LOG, features="genre")
    found = items.of_log(Vocabulary([99, 8, 7]))
    # Those of the new log first, one of them without features; then the others, all cold.
    assert found.features.items.ids == [99, 8, 7, 40, 3, 5]
    assert found.features.num_warm == 3
    x, y = items.features.matrix.toarray()[[1, 0]]
    assert (found.features.matrix.toarray() == [x, 0 * x, y, x, x, y]).all()
    assert found.titles.as_dict() == {99: "new", 7: "a", 40: "b", 3: "c"}
