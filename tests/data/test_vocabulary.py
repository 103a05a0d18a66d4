from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emorec.data.vocabulary import IdError, Vocabulary


def test_fit_numbers_ids_by_first_appearance() -> None:
    vocabulary, indices = Vocabulary.fit([30, 10, 30, 20])
    assert vocabulary.ids == [30, 10, 20]
    assert indices.tolist() == [0, 1, 0, 2]
    assert indices.dtype == np.int64


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        ([1.0, 2.0], [1, 2]),
        ([1, "a"], [1, "a"]),
        ([1.0, "a", np.int64(7)], [1, "a", 7]),
        (np.array([2, 1], dtype=object), [2, 1]),
        (pd.Categorical([3, 1]), [3, 1]),
        (pd.array([1, 2], dtype="Int64"), [1, 2]),
        (np.array([2**63], dtype=np.uint64), [2**63]),
        ([np.uint64(3), -1], [3, -1]),  # no type of NumPy's holds both
        ([2**70, 1], [2**70, 1]),
        (["Anna Müller", " 日本 ", "nan", "007"], ["Anna Müller", " 日本 ", "nan", "007"]),
        ((letter for letter in "ab"), ["a", "b"]),
        ([], []),
    ],
)
def test_ids_are_integers_or_strings(column: Any, ids: list[Any]) -> None:
    found = Vocabulary(column).ids
    assert found == ids
    assert [type(value) for value in found] == [type(value) for value in ids]


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [
        ([2.0, 1.5], 1, "1.5"),
        ([float("inf")], 0, "inf"),
        (["a", True], 1, "True"),
        ([True, False], 0, "True"),
        ([b"a", b"b"], 0, "b'a'"),
        ([1, Decimal("2")], 1, r"Decimal\('2'\)"),
        (pd.to_datetime(["2020-01-01"]), 0, "2020-01-01"),
        ([["a"], ["b"]], 0, r"\['a'\]"),
    ],
)
def test_ids_that_are_neither_text_nor_whole_numbers_are_refused(
    column: Any, row: int, value: str
) -> None:
    with pytest.raises(IdError, match=f"row {row}: the id .*{value}.* is neither text nor a whole"):
        Vocabulary.fit(column)


def test_floats_that_may_have_been_rounded_are_refused() -> None:
    assert Vocabulary([2.0**53 - 1]).ids == [2**53 - 1]
    with pytest.raises(IdError, match="too large to be exact as a float"):
        Vocabulary.fit([1.0, 2.0**53])


def test_an_id_is_not_both_a_number_and_a_text() -> None:
    with pytest.raises(ValueError, match="id 17 occurs as '17' too"):
        Vocabulary.fit([17, "a", "17"])


def test_half_characters_are_refused() -> None:
    with pytest.raises(IdError, match="row 1: .* is not valid Unicode"):
        Vocabulary.fit(["ä", "\ud800"])


def test_mixed_ids_are_found_by_number_and_by_text() -> None:
    vocabulary = Vocabulary([17, "a", 2**70])
    assert vocabulary.indices([17, "17", "a", str(2**70), 2**70, "b", 1.5]).tolist() == [
        *(0, 0, 1, 2, 2, -1, -1)
    ]


@given(st.lists(st.text(min_size=1) | st.integers(), unique_by=str))
def test_ids_come_out_as_they_went_in(ids: list[Any]) -> None:
    try:
        vocabulary, index = Vocabulary.fit(ids)
    except IdError:
        assert any("\ud800" <= c <= "\udfff" for each in ids for c in str(each))
        return
    assert vocabulary.lookup(index) == ids
    assert vocabulary.indices(ids).tolist() == list(range(len(ids)))


@pytest.mark.parametrize("column", [[1, None], ["a", float("nan")], [pd.NA, "b"]])
def test_missing_ids_are_refused_by_row(column: list[Any]) -> None:
    row = next(i for i, value in enumerate(column) if pd.isna(value))
    with pytest.raises(IdError, match=f"row {row}: an id is missing"):
        Vocabulary.fit(column)
    with pytest.raises(IdError, match="row 1: an id is empty"):
        Vocabulary.fit(["a", ""])


def test_an_id_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="id 'b' occurs twice"):
        Vocabulary(["a", "b", "b"])


def test_integer_ids_are_found_as_numbers_and_as_typed_text() -> None:
    vocabulary = Vocabulary([10, 20, -1])
    wanted = ["10", 20, -1, "-1", "x", None, "020", 30]
    assert vocabulary.indices(wanted).tolist() == [0, 1, 2, 2, -1, -1, -1, -1]
    assert "20" in vocabulary and 30 not in vocabulary


def test_whole_numbers_beside_others_are_found() -> None:
    assert Vocabulary([1, 2]).indices([1.5, 2.0]).tolist() == [-1, 1]
    assert Vocabulary([1, 2]).indices([2.0]).tolist() == [1]
    assert Vocabulary(["1.5", 2]).indices([1.5]).tolist() == [0]
    assert Vocabulary([1]).indices([np.inf, 2.0**63, 1]).tolist() == [-1, -1, 0]
    assert Vocabulary(["1", "2.5"]).indices([2.5, 1]).tolist() == [1, 0]


def test_string_ids_are_found_as_text_and_as_numbers() -> None:
    vocabulary = Vocabulary(["10", "b c", "nan"])
    assert vocabulary.indices([10]).tolist() == [0]
    assert vocabulary.indices([10, "b c", float("nan"), "nan", "B C"]).tolist() == [0, 1, -1, 2, -1]


def test_large_integers_stay_exact_beside_a_missing_one() -> None:
    vocabulary = Vocabulary([2**60, 2**60 + 1])
    assert vocabulary.indices([2**60 + 1, None, 2**60 + 2]).tolist() == [1, -1, -1]


def test_an_empty_vocabulary_knows_nothing() -> None:
    assert Vocabulary([]).indices(["a", 1]).tolist() == [-1, -1]
    assert Vocabulary([1]).indices([]).tolist() == []


def test_lookup_and_subset_follow_the_order_given() -> None:
    vocabulary = Vocabulary(["a", "b", "c"])
    assert vocabulary.lookup([2, 0, 2]) == ["c", "a", "c"]
    assert vocabulary.subset(np.array([2, 0])).ids == ["c", "a"]


@pytest.mark.parametrize("index", [-1, 3])
def test_lookup_refuses_an_index_outside(index: int) -> None:
    with pytest.raises(IndexError, match=f"no id has index {index}; there are 3 ids"):
        Vocabulary(["a", "b", "c"]).lookup([0, index])


def test_equality_looks_at_ids_order_and_type() -> None:
    assert Vocabulary([1, 2]) == Vocabulary([1, 2])
    assert Vocabulary([1, 2]) != Vocabulary([2, 1])
    assert Vocabulary([1, 2]) != Vocabulary(["1", "2"])


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True)
    | st.lists(st.text(min_size=1), min_size=1, unique=True)
)
def test_indices_and_lookup_are_inverse(ids: list[Any]) -> None:
    vocabulary = Vocabulary(ids)
    assert vocabulary.indices(ids).tolist() == list(range(len(ids)))
    assert vocabulary.lookup(np.arange(len(ids))) == ids


def test_rows_are_named_in_a_column_of_text() -> None:
    column = pd.Series(["b", "a", "b", "", "a", ""], dtype="string")
    with pytest.raises(IdError, match="row 3: an id is empty"):
        Vocabulary.fit(column)
    with pytest.raises(IdError, match="row 3: an id is missing"):
        Vocabulary.fit(column.mask(column == ""))
    vocabulary, index = Vocabulary.fit(column[:3])
    assert vocabulary.ids == ["b", "a"] and index.tolist() == [0, 1, 0]


def test_half_characters_among_numbers_are_refused() -> None:
    with pytest.raises(IdError, match="row 1: .* is not valid Unicode"):
        Vocabulary.fit([5, "\ud800"])


def test_ids_of_a_categorical_column_are_its_values() -> None:
    vocabulary, index = Vocabulary.fit(pd.Series(["b", "a", "b"], dtype="category"))
    assert (vocabulary.ids, index.tolist()) == (["b", "a"], [0, 1, 0])
    vocabulary, index = Vocabulary.fit(pd.Series([7, 3, 7], dtype="category"))
    assert (vocabulary.ids, index.tolist()) == ([7, 3], [0, 1, 0])
    assert repr(vocabulary) == "Vocabulary(2 ids)"


def test_broken_unicode_in_a_column_of_objects() -> None:
    column = pd.Series(["a", "\ud800"], dtype=object)
    with pytest.raises(IdError, match=r"row 1: the id '\\ud800' is not valid Unicode"):
        Vocabulary(column)


def test_a_long_value_is_cut_in_the_error() -> None:
    with pytest.raises(IdError, match=r"neither text nor a whole number") as caught:
        Vocabulary([1, list(range(1000))])
    assert len(str(caught.value)) < 300
