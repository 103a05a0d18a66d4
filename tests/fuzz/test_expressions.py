"""Conditions over columns beside an evaluator that goes row by row."""

from __future__ import annotations

import math
import operator

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from emorec.data.expressions import Expression, ExpressionError
from tests.fuzz.amount import amount

# An expression is its text and a function of a row; None stands for a missing value.
COMPARE = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le,
    ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
ARITHMETIC = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "//": operator.floordiv, "%": operator.mod,
}  # fmt: skip
SOME_NUMBERS = (0, 1, -1, 2, 3.5, -0.0, 1e300, 5e-324, 0.1, 2**40, -7)
TEXTS = ("", "a", "b", "é", "a b", "'")


def literal(value):
    return (repr(value), lambda row: value)


def column(name):
    return (name, lambda row: row[name])


def negated(number):
    return (f"(-{number[0]})", lambda row: finite(lambda x: -x, number[1](row)))


def computed(left, sign, right):
    def value(row):
        return finite(ARITHMETIC[sign], left[1](row), right[1](row))

    return (f"({left[0]} {sign} {right[0]})", value)


def finite(operate, *values):
    """The result as a float, missing if there is none or an operand is missing."""
    if None in values:
        return None
    try:
        result = operate(*map(float, values))
    except ZeroDivisionError:
        return None
    return result if math.isfinite(result) else None


def compared(first, links):
    operands = [first, *(operand for _, operand in links)]

    def holds(row):
        values = [operand[1](row) for operand in operands]
        return all(
            a is not None and b is not None and COMPARE[sign](a, b)
            for a, (sign, _), b in zip(values, links, values[1:], strict=False)
        )

    return (f"({first[0]} {' '.join(f'{sign} {each[0]}' for sign, each in links)})", holds)


def listed(value, word, literals):
    def holds(row):
        found = value[1](row)
        return found is not None and (found in literals) == (word == "in")

    return (f"({value[0]} {word} [{', '.join(map(repr, literals))}])", holds)


def both(word, parts):
    combine = all if word == "and" else any
    return (f"({f' {word} '.join(text for text, _ in parts)})",
            lambda row: combine([truth(holds(row)) for _, holds in parts]))  # fmt: skip


def opposite(part):
    return (f"(not {part[0]})", lambda row: not truth(part[1](row)))


def truth(value):
    return value is not None and bool(value)


numbers = st.sampled_from(SOME_NUMBERS)
leaves = numbers.map(literal) | st.sampled_from(["a", "b", "flag", "gone"]).map(column)
words = st.sampled_from(TEXTS).map(literal) | st.sampled_from(["t", "u"]).map(column)


def conditions_over(values, texts):
    signs = st.sampled_from(list(COMPARE))
    return (
        st.builds(compared, values, st.lists(st.tuples(signs, values), min_size=1, max_size=3))
        | st.builds(compared, texts, st.lists(st.tuples(signs, texts), min_size=1, max_size=2))
        | st.builds(listed, values, st.sampled_from(["in", "not in"]), st.lists(numbers))
        | st.builds(listed, texts, st.sampled_from(["in", "not in"]),
                    st.lists(st.sampled_from(TEXTS), min_size=1))
        | values
    )  # fmt: skip


arithmetic = st.recursive(
    leaves | conditions_over(leaves, words),
    lambda inner: (
        st.builds(computed, inner, st.sampled_from(list(ARITHMETIC)), inner) | inner.map(negated)
    ),
    max_leaves=4,
)
conditions = st.recursive(
    conditions_over(arithmetic, words),
    lambda inner: (
        st.builds(both, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3))
        | inner.map(opposite)
    ),
    max_leaves=4,
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "a": st.none() | numbers,
            "b": st.integers(-3, 3),
            "flag": st.none() | st.booleans(),
            "t": st.none() | st.sampled_from(TEXTS),
            "u": st.sampled_from(TEXTS),
            "gone": st.none(),
        }
    ),
    min_size=1,
    max_size=5,
)


@amount(300)
@given(conditions, rows)
def test_rows_one_by_one(condition, found):
    text, holds = condition
    types = {"a": float, "b": "int64", "flag": object, "t": object, "u": object, "gone": object}
    frame = pd.DataFrame(
        {name: pd.Series([row[name] for row in found], dtype=kind) for name, kind in types.items()}
    )
    matches = Expression.parse(text).matches(frame)
    assert matches.tolist() == [truth(holds(row)) for row in found], text


TOKENS = (
    *COMPARE, *ARITHMETIC, "and", "or", "not", "in", "not in", "(", ")", "[", "]", "{", "}", ",",
    "a", "t", "gone", "missing", "True", "False", "None", "1", "1e999", "0x1f", "9" * 30, "1j",
    "'a'", '"""', "b''", "f'{a}'", "\\", "\n", "#", ";", ":", ":=", ".", "**", "~", "@", "lambda",
    "if", "else", "await", "yield", "*", "é", "\0", "\ufeff", "\t", "1_0", "__import__", "...",
)  # fmt: skip


@amount(300)
@given(st.lists(st.sampled_from(TOKENS), max_size=12), st.sampled_from(["", " "]))
def test_any_tokens(tokens, between):
    """Also what parses fits the columns or not; pandas and NumPy are never heard of."""
    frame = pd.DataFrame({"a": [1.0, None], "t": ["a", None], "gone": [None, None]})
    try:
        parsed = Expression.parse(between.join(tokens))
        assert parsed.matches(frame).shape == (2,)
    except ExpressionError as error:
        assert str(error)
