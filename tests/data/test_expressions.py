from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emorec.data.expressions import Expression, ExpressionError

NAN = float("nan")
FRAME = pd.DataFrame(
    {
        "stars": [5.0, 3.0, NAN, 0.0],
        "ms": [1000, 0, 60_000, 9_007_199_254_740_993],
        "like": [1, 0, 0, 1],
        "tab": ["home", None, "été", "home"],
        "flag": [True, None, False, True],
    }
)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("stars == 5", [0]),
        ("stars != 5", [1, 3]),  # a missing value is not different from 5
        ("not stars > 2", [2, 3]),  # but it is not above 2 either
        ("2 < stars <= 5", [0, 1]),
        ("stars < 4 < 5 == 5", [1, 3]),
        ("stars in [3, 5]", [0, 1]),
        ("stars not in (3, 5)", [3]),
        ("stars in [-0.0, 3]", [1, 3]),
        ("tab in {'home', \"x\"}", [0, 3]),
        ("tab not in ['home']", [2]),
        ("tab == 'été'", [2]),
        ("tab < 'i'", [0, 3]),
        ("tab != 'home'", [2]),
        ("like", [0, 3]),
        ("not like", [1, 2]),
        ("stars", [0, 1]),
        ("flag", [0, 3]),
        ("flag == False", [2]),
        ("like and stars > 1 or ms == 60000", [0, 2]),
        ("like and (stars > 1 or ms == 60000)", [0]),
        ("ms == 9007199254740993", [3]),  # beyond what float64 holds exactly
        ("ms == 9007199254740992", []),
        ("ms / 1000 >= 60", [2, 3]),
        ("1 / ms > 0", [0, 2, 3]),  # a division by zero matches nothing
        ("1 / ms <= 0 or 1 // ms != 0 or 1 % ms < 0", []),
        ("ms // 999 == 1", [0]),
        ("ms % 1000 == 993 - 1", [3]),  # arithmetic is float64
        ("-ms < -1000", [2, 3]),
        ("-(like + 1) * 2 == -4", [0, 3]),
        ("(stars > 2) + like == 2", [0]),
        ("1 / 0 > 0", []),
        ("True", [0, 1, 2, 3]),
        ("1 > 2", []),
        ("  like\n", [0, 3]),
    ],
)
def test_matches(text: str, rows: list[int]) -> None:
    result = Expression.parse(text).matches(FRAME)
    assert result.dtype == bool and result.shape == (4,)
    assert np.flatnonzero(result).tolist() == rows


def test_columns_are_listed_once_in_order() -> None:
    assert Expression.parse("b > 1 and a < b or c in [1]").columns == ("b", "a", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("__import__('os')", "a function call is not allowed, at character 1"),
        ("like and abs(ms) > 1", "a function call is not allowed, at character 10"),
        ("été + f(x)", "a function call is not allowed, at character 7"),
        ("ms.real", "an attribute .* at character 1"),
        ("ms[0]", "an index in square brackets"),
        ("lambda: 1", "a lambda"),
        ("1 if like else 2", "if ... else"),
        ("(x := 1)", "an assignment"),
        ("f'{ms}' == '1'", "an f-string"),
        ("[1] == ms", "a list outside 'in'"),
        ("ms ** 9", r"a power \(\*\*\)"),
        ("like & ms", "write 'and'"),
        ("like | ms", "write 'or'"),
        ("~like", "write 'not'"),
        ("stars is 5", "write '=='"),
        ("+ms > 1", "a leading '\\+'"),
        ("ms in stars", "'in' needs a list of values"),
        ("ms in [stars]", "Name is not allowed"),
        ("[x for x in ms]", "ListComp is not allowed"),
        ("ms == None", "None is not allowed"),
        ("ms == 1j", "1j is not allowed"),
        ("ms == b'1'", "b'1' is not allowed"),
        ("ms == 9223372036854775808", "is too large"),
        ("like == true", "'true' is written True"),
        ("stars >", "is not an expression: invalid syntax, at character 8"),
        ("stars = 5", "is not an expression"),
        ("like; ms", "is not an expression"),
        ("import os", "is not an expression"),
        ("stars == 5\nand like", "is not an expression"),
        ("a\0b", "is not an expression"),
        ("stars == '\ud800'", "is not an expression: 'utf-8' codec can't encode"),
        ("", "the expression is empty"),
        ("x" * 2001, "has 2001 characters, at most 2000"),
        ("+".join(["ms"] * 60), "nested more than 50 deep"),
        ("not " * 60 + "ms", "nested more than 50 deep"),
        ("(" * 900 + "1" + ")" * 900, "is not an expression"),
    ],
)
def test_anything_else_is_refused_with_text_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message) as caught:
        Expression.parse(text)
    said = str(caught.value)
    assert "allowed" in said
    assert repr(text.strip())[:40].strip("'\"") in said


def test_columns_that_are_compared_with_text() -> None:
    parsed = Expression.parse("a == 'x' and 'y' != b or c in [1, 'z'] and d > 1 and e == a")
    assert parsed.text_columns == ("a", "b", "c")


@pytest.mark.parametrize(
    "text", ["x == 'hate'", "x != 'hate'", "x in ['hate']", "x not in [3]", "x > 2", "x", "-x < 0"]
)
@pytest.mark.parametrize("dtype", [object, float, "string", "Int64", "category"])
def test_a_column_without_any_value_matches_nothing(text: str, dtype: Any) -> None:
    frame = pd.DataFrame({"x": pd.Series([None, None], dtype=dtype)})
    assert Expression.parse(text).matches(frame).tolist() == [False, False]


def test_categories_are_what_they_hold() -> None:
    frame = pd.DataFrame({"n": [1, 2], "t": ["a", None]}, dtype="category")
    assert Expression.parse("n > 1").matches(frame).tolist() == [False, True]
    assert Expression.parse("t == 'a'").matches(frame).tolist() == [True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("like > 0 and starz > 1", "no column 'starz' .*did you mean 'stars'.* at character 14"),
        ("zzz", "no column 'zzz' .there are 'stars', 'ms', 'like', 'tab', 'flag'"),
        ("tab > 1", "compared with a number .row 1 holds 'home'., at character 7"),
        ("tab in [1]", "text is compared with a number"),
        ("ms == '1000'", "text is compared with a number"),
        ("tab + 1 > 2", "arithmetic needs numbers"),
        ("tab", "text is neither true nor false"),
        ("not (like and tab)", "text is neither true nor false, at character 15|compare it"),
    ],
)
def test_what_does_not_fit_the_table_is_refused(text: str, message: str) -> None:
    expression = Expression.parse(text)
    with pytest.raises(ExpressionError, match=message):
        expression.matches(FRAME)


def test_text_is_never_run() -> None:
    with pytest.raises(ExpressionError):
        Expression.parse(5)  # type: ignore[arg-type]
    with pytest.raises(ExpressionError):
        Expression.parse("().__class__.__bases__[0].__subclasses__()")


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_but_never_crashes(text: str) -> None:
    try:
        Expression.parse(text)
    except ExpressionError:
        pass


values = st.integers(-5, 5)
comparisons = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["<", "==", ">="]), values)


@given(
    st.lists(st.tuples(values, values), min_size=1, max_size=8), comparisons, comparisons, values
)
def test_agrees_with_plain_python(
    rows: list[tuple[int, int]],
    first: tuple[str, str, int],
    second: tuple[str, str, int],
    shift: int,
) -> None:
    def holds(row: tuple[int, int], comparison: tuple[str, str, int]) -> bool:
        name, operator, bound = comparison
        value = row["ab".index(name)] * 2 - shift
        return {"<": value < bound, "==": value == bound, ">=": value >= bound}[operator]

    def text(comparison: tuple[str, str, int]) -> str:
        return f"{comparison[0]} * 2 - ({shift}) {comparison[1]} {comparison[2]}"

    frame = pd.DataFrame(rows, columns=["a", "b"])
    found = Expression.parse(f"{text(first)} and not {text(second)}").matches(frame)
    assert found.tolist() == [holds(row, first) and not holds(row, second) for row in rows]
