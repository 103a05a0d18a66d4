import pytest

from emorec.suggestions import suggestion


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
