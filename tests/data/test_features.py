from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from emorec.data.features import NUM_FEATURES, chosen_columns, features_of
from emorec.data.files import DataError
from emorec.data.tables import Table


def hashed(frame, columns=None, place=None):
    table = Table.of_frame(pd.DataFrame(frame), "items.csv")
    place = np.arange(len(table.frame)) if place is None else np.array(place)
    columns = list(table.frame.columns) if columns is None else columns
    matrix, unused = features_of(table, columns, place, int(place.max()) + 1)
    return matrix.toarray(), unused


def groups(frame):
    """Which rows share each token of a column, as sets; collisions aside."""
    matrix, _ = hashed(frame)
    columns = [frozenset(np.flatnonzero(column).tolist()) for column in (matrix > 0).T]
    return {column for column in columns if column}


class TestValues:
    def test_hashes_are_those_of_every_machine(self):
        matrix, _ = hashed({"genre": ["Comedy", "Drama", "Drama", "Comedy"]})
        # blake2b("genre\x1fComedy", 8 bytes) as a little-endian number, modulo 4096
        assert np.flatnonzero(matrix[0]).tolist() == [3581]
        assert np.flatnonzero(matrix[1]).tolist() == [3420]
        assert matrix.shape == (4, NUM_FEATURES) and matrix.dtype == np.float32

    def test_rare_tokens_weigh_more_and_rows_have_length_1(self):
        matrix, _ = hashed({"tags": ["a|b", "a", "a", None]})
        a, b = np.log(1 + 4 / 3), np.log(1 + 4 / 1)
        expected = np.sort([a, b]) / np.hypot(a, b)
        assert np.sort(matrix[0][matrix[0] > 0]) == pytest.approx(expected)
        assert matrix[1].max() == matrix[2].max() == 1
        assert not matrix[3].any()

    def test_a_column_of_many_tokens_weighs_as_one_of_few(self):
        # Two columns, of one and of four tokens that occur alike: equal squared lengths.
        matrix, _ = hashed({"one": ["x", "x", "y", "y"], "four": ["a|b|c|d"] * 2 + ["e|f|g|h"] * 2})
        squared = np.sort(matrix[0][matrix[0] > 0] ** 2)
        assert squared == pytest.approx([0.125] * 4 + [0.5])

    def test_places(self):
        matrix, _ = hashed({"g": ["x", "y", "x", "y"]}, place=[2, -1, 0, 1])
        assert (matrix[2] == matrix[0]).all() and matrix[1].any()
        assert (matrix[1] != matrix[0]).any()


class TestKinds:
    def test_tags_by_bars_commas_or_lists(self):
        expected = {frozenset({0, 1}), frozenset({0, 2}), frozenset({1, 2})}
        assert groups({"t": ["a|b", "a|c", "b|c"]}) == expected
        assert groups({"t": ["a, b", "a, c", "b, c"]}) == expected
        assert groups({"t": [["a", "b"], ["a", "c"], ["b", "c"]]}) == expected

    def test_text_is_a_category_if_values_repeat_and_words_if_not(self):
        assert groups({"t": ["New York", "New York", "York", "York"]}) == {
            frozenset({0, 1}), frozenset({2, 3})
        }  # fmt: skip
        assert groups({"t": ["New York", "York, the old", "new"]}) == {
            frozenset({0, 2}), frozenset({0, 1}), frozenset({1})
        }  # fmt: skip

    def test_numbers_are_deciles_if_they_are_many(self):
        found = groups({"n": np.arange(100.0)})
        assert found == {frozenset(range(low, low + 10)) for low in range(0, 100, 10)}
        assert groups({"n": [1.0, 2.0, 1.0, np.nan]}) == {frozenset({0, 2}), frozenset({1})}
        assert groups({"n": [True, False, True]}) == {frozenset({0, 2}), frozenset({1})}

    def test_dates_are_numbers(self):
        days = pd.date_range("2020-01-01", periods=100)
        assert len(groups({"day": days})) == 10

    def test_columns_that_cannot_be_used(self):
        _, unused = hashed(
            {
                "empty": [None, None],
                "same": ["x", "x"],
                "odd": [{"a": 1}, {"b": 2}],
                "g": ["a", "b"],
            }
        )
        assert unused == [
            "'empty' is empty",
            "'same' is 'x' for all items",
            "'odd' holds dict {'a': 1}, not text, numbers or lists",
        ]


class TestChosenColumns:
    table = Table.of_frame(pd.DataFrame({"id": [1], "genres": ["a"], "year": [1]}), "items.csv")

    def test_all_but_the_ids_or_named_ones(self):
        assert chosen_columns(self.table, "*", "id") == ["genres", "year"]
        assert chosen_columns(self.table, "year, genres", "id") == ["year", "genres"]
        assert chosen_columns(self.table, "", "id") == []

    def test_what_is_refused(self):
        with pytest.raises(DataError, match=r"no column 'genre' \(.*did you mean 'genres'"):
            chosen_columns(self.table, "genre", "id")
        with pytest.raises(DataError, match="names 'id', the column of item ids"):
            chosen_columns(self.table, "id", "id")


class TestKindsOfColumns:
    def test_a_categorical_column_has_the_tokens_of_its_values(self):
        for values in (["x|y", "y", None], [3.0, 7.0, 3.0]):
            expected, _ = hashed({"genre": values})
            found, unused = hashed({"genre": pd.Series(values, dtype="category")})
            assert (found == expected).all() and not unused

    def test_numbers_as_objects_are_numbers(self):
        expected, _ = hashed({"year": [1990, 2001, 2001, 1960]})
        found, _ = hashed({"year": pd.Series([1990, 2001, 2001, 1960], dtype=object)})
        assert (found == expected).all()

    def test_lists_and_text_that_hold_nothing(self):
        matrix, unused = hashed({"tags": [[" "], [""]], "genre": ["x", "y"]})
        assert len(unused) == 1 and "'tags' is empty" in unused[0]
        assert (matrix > 0).sum(1).tolist() == [1, 1]
