import pytest

from emorec.suggestions import suggestion
from emorec.texts import shortened


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["rating", "stars"], "did you mean 'rating'?"),
        (["rated", "rating", "stars"], "did you mean 'rating' or 'rated'?"),
        ({"a": 1, "b": 2}, "there are 'a', 'b'"),
        (range(30), "there are " + ", ".join(f"'{n}'" for n in range(20)) + ", ..."),
        ([], "there are none"),
    ],
)
def test_names_what_may_be_meant(known, expected):
    assert suggestion("ratng", known) == expected


def test_many_and_long_names_take_no_time():
    names = (f"{'column' * 50}{n}" for n in range(10**9))
    assert suggestion("column" * 10**6, names).startswith("there are 'columncolumn")
    assert len(suggestion("column", ["c" * 10**6])) < 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a" * 100, "a" * 100),
        ("a" * 101, "a" * 100 + "..."),
        (7, 7),
        (10**400, "a number of 1329 bits"),
        (-(10**100), "a number of 333 bits"),
        (None, None),
    ],
)
def test_shortened(value, expected):
    assert shortened(value) == expected
