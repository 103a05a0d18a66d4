"""Conditions over the columns of a table, parsed against a whitelist, never run as code."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd

from emorec.data.tables import to_numbers, to_texts
from emorec.suggestions import suggestion
from emorec.texts import shortened

__all__ = ["Expression", "ExpressionError"]

MAX_LENGTH = 2000  # characters
MAX_DEPTH = 50  # nested operations
ALLOWED = (
    "allowed are column names, numbers, quoted text, True, False, == != < <= > >=, "
    "in and not in with a list of values, + - * / // %, and, or, not, brackets"
)

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
}
# What people reach for, in their words.
_REFUSED: dict[type[ast.AST], str] = {
    ast.Call: "a function call",
    ast.Attribute: "an attribute (a dot after a name)",
    ast.Subscript: "an index in square brackets",
    ast.Lambda: "a lambda",
    ast.IfExp: "if ... else",
    ast.NamedExpr: "an assignment",
    ast.JoinedStr: "an f-string",
    ast.List: "a list outside 'in'",
    ast.Tuple: "a list outside 'in'",
    ast.Set: "a list outside 'in'",
    ast.Pow: "a power (**)",
    ast.BitAnd: "'&' (write 'and')",
    ast.BitOr: "'|' (write 'or')",
    ast.Invert: "'~' (write 'not')",
    ast.Is: "'is' (write '==')",
    ast.IsNot: "'is not' (write '!=')",
    ast.UAdd: "a leading '+'",
}


class ExpressionError(ValueError):
    """An expression that cannot be parsed or does not fit the table."""


class _Value(NamedTuple):
    """A column ``[N]`` or a scalar; ``present`` is False where a column has no value.

    ``is_text`` is None for a column without any value, which may be compared with everything.
    """

    data: Any
    present: Any
    is_text: bool | None


_Evaluator = Callable[[pd.DataFrame], _Value]


@dataclass(frozen=True)
class Expression:
    """A condition over columns, such as ``"play_ms < 3000 and not is_click"``.

    A comparison with a missing value is False, ``!=`` and ``not in`` included, so ``not (x > 3)``
    is True where ``x`` is missing. A number by itself is true unless it is 0 or missing. The result
    of arithmetic that has no finite value (a division by zero) counts as missing.

    Attributes:
        text: The expression as written.
        columns: Names of the columns it reads, in order of appearance.
        text_columns: Those that it compares with quoted text.
    """

    text: str
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    _evaluate: _Evaluator

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Parses and checks an expression once, for use on any table.

        Raises:
            ExpressionError: If the text is not an expression or uses what is not allowed; the
                message holds the text, the position and what is allowed.
        """
        if not isinstance(text, str):
            raise ExpressionError(f"an expression must be text, got {text!r}")
        text = text.strip()
        if not text:
            raise ExpressionError(f"the expression is empty; {ALLOWED}")
        if len(text) > MAX_LENGTH:
            raise ExpressionError(
                f"the expression has {len(text)} characters, at most {MAX_LENGTH} are allowed; "
                f"it starts with {text[:40]!r}"
            )
        try:
            body = ast.parse(text, mode="eval").body
        except SyntaxError as error:
            place = f", at character {error.offset or len(text) + 1}"
            raise ExpressionError(
                f"{text!r} is not an expression: {error.msg}{place}; {ALLOWED}"
            ) from None
        except (RecursionError, MemoryError, ValueError) as error:
            raise ExpressionError(
                f"{text!r} is not an expression: {error or 'nested too deep'}; {ALLOWED}"
            ) from None
        compiler = _Compiler(text)
        condition = compiler.condition(body, 0)
        return cls(text, tuple(compiler.columns), tuple(compiler.text_columns), condition)

    def matches(self, frame: pd.DataFrame) -> np.ndarray:
        """Which rows fulfil the condition, bool ``[N]``.

        Raises:
            ExpressionError: If a column is absent, or text is compared with or used as a number.
        """
        data = self._evaluate(frame).data
        return np.array(np.broadcast_to(data, (len(frame),)), dtype=bool)


class _Compiler:
    """Turns the syntax tree of one expression into nested functions of a table."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: dict[str, None] = {}  # an ordered set
        self.text_columns: dict[str, None] = {}

    def fail(self, node: ast.AST, why: str) -> NoReturn:
        raise ExpressionError(f"{why}, at {self._place(node)} of {self.text!r}; {ALLOWED}")

    def condition(self, node: ast.expr, depth: int) -> _Evaluator:
        """A part whose result is a truth value per row."""
        self._check_depth(node, depth)
        if isinstance(node, ast.BoolOp):
            parts = [self.condition(value, depth + 1) for value in node.values]
            combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or

            def fold(frame: pd.DataFrame) -> _Value:
                result = parts[0](frame).data
                for part in parts[1:]:
                    result = combine(result, part(frame).data)
                return _Value(result, True, False)

            return fold
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.condition(node.operand, depth + 1)
            return lambda frame: _Value(np.logical_not(inner(frame).data), True, False)
        if isinstance(node, ast.Compare):
            return self._comparison(node, depth)
        value = self.value(node, depth)

        def truth(frame: pd.DataFrame) -> _Value:
            data, present, is_text = value(frame)
            if is_text:
                self.fail(node, "text is neither true nor false; compare it with something")
            return _Value(np.not_equal(data, 0) & present, True, False)

        return truth

    def value(self, node: ast.expr, depth: int) -> _Evaluator:
        """A part whose result is a number or text per row."""
        self._check_depth(node, depth)
        if isinstance(node, ast.Name):
            return self._column(node)
        if isinstance(node, ast.BinOp):
            return self._arithmetic(node, depth)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            operand = self.number(node.operand, depth + 1)
            return lambda frame: _finite(np.negative(operand(frame).data))
        if isinstance(node, ast.Constant):
            literal = self._literal(node)
            return lambda frame: literal
        if isinstance(node, (ast.Compare, ast.BoolOp)) or (
            isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        ):
            return self.condition(node, depth)
        self._refuse(node, node.op if isinstance(node, ast.UnaryOp) else node)

    def number(self, node: ast.expr, depth: int) -> _Evaluator:
        """A part whose result is a float64 per row, NaN where missing."""
        value = self.value(node, depth)

        def as_float(frame: pd.DataFrame) -> _Value:
            data, present, is_text = value(frame)
            if is_text:
                self.fail(node, f"arithmetic needs numbers, this is text{_example(data, present)}")
            return _Value(np.where(present, data, np.nan).astype(np.float64), present, False)

        return as_float

    def _arithmetic(self, node: ast.BinOp, depth: int) -> _Evaluator:
        operate = _ARITHMETIC.get(type(node.op))
        if operate is None:
            self._refuse(node, node.op)
        left = self.number(node.left, depth + 1)
        right = self.number(node.right, depth + 1)

        def apply(frame: pd.DataFrame) -> _Value:
            with np.errstate(all="ignore"):
                return _finite(operate(left(frame).data, right(frame).data))

        return apply

    def _comparison(self, node: ast.Compare, depth: int) -> _Evaluator:
        """``a < b < c`` is ``a < b and b < c``."""
        operands = [node.left, *node.comparators]
        links = []
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            if isinstance(op, (ast.In, ast.NotIn)):
                links.append(self._membership(left, op, right, depth))
            else:
                links.append(self._link(left, op, right, depth))

        def chain(frame: pd.DataFrame) -> _Value:
            result: Any = True
            for link in links:
                result = np.logical_and(result, link(frame))
            return _Value(result, True, False)

        return chain

    def _link(
        self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int
    ) -> Callable[[pd.DataFrame], Any]:
        compare = _COMPARE.get(type(op))
        if compare is None:
            self._refuse(right, op)
        first, second = self.value(left, depth + 1), self.value(right, depth + 1)
        self._note_text(left, [right])
        self._note_text(right, [left])

        def apply(frame: pd.DataFrame) -> Any:
            a, b = first(frame), second(frame)
            if a.is_text is None or b.is_text is None:
                return False
            if a.is_text != b.is_text:
                text = a if a.is_text else b
                found = _example(text.data, text.present)
                self.fail(right, f"text is compared with a number{found}")
            return np.asarray(compare(a.data, b.data), dtype=bool) & a.present & b.present

        return apply

    def _membership(
        self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int
    ) -> Callable[[pd.DataFrame], Any]:
        if not isinstance(right, (ast.List, ast.Tuple, ast.Set)):
            self.fail(right, "'in' needs a list of values, such as [1, 2]")
        literals = [self._literal(element) for element in right.elts]
        needle = self.value(left, depth + 1)
        self._note_text(left, right.elts)

        def apply(frame: pd.DataFrame) -> Any:
            data, present, is_text = needle(frame)
            if is_text is None:
                return False
            if any(literal.is_text != is_text for literal in literals):
                self.fail(right, "text is compared with a number")
            found: Any = False
            for literal in literals:
                found = np.logical_or(found, np.equal(data, literal.data))
            return (found if isinstance(op, ast.In) else np.logical_not(found)) & present

        return apply

    def _note_text(self, node: ast.expr, others: list[ast.expr]) -> None:
        """Records a column that is compared with quoted text."""
        if isinstance(node, ast.Name) and any(
            isinstance(other, ast.Constant) and isinstance(other.value, str) for other in others
        ):
            self.text_columns[node.id] = None

    def _column(self, node: ast.Name) -> _Evaluator:
        name = node.id
        if name in ("true", "false"):
            self.fail(node, f"{name!r} is written {name.capitalize()}")
        self.columns[name] = None

        def read(frame: pd.DataFrame) -> _Value:
            if name not in frame.columns:
                self.fail(node, f"there is no column {name!r} ({suggestion(name, frame.columns)})")
            return _column_value(frame[name])

        return read

    def _literal(self, node: ast.expr) -> _Value:
        sign = 1
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            sign, node = -1, node.operand
        if not isinstance(node, ast.Constant):
            self._refuse(node, node)
        value = node.value
        if isinstance(value, str) and sign == 1:
            return _Value(value, True, True)
        if not isinstance(value, (bool, int, float)):
            self.fail(node, f"{value!r} is not allowed")
        if isinstance(value, int) and abs(value) >= 2**63:
            self.fail(node, f"the number {shortened(value)} is too large")
        return _Value(sign * value, True, False)

    def _check_depth(self, node: ast.AST, depth: int) -> None:
        if depth > MAX_DEPTH:
            self.fail(node, f"operations are nested more than {MAX_DEPTH} deep")

    def _refuse(self, node: ast.AST, what: ast.AST) -> NoReturn:
        self.fail(node, f"{_REFUSED.get(type(what), type(what).__name__)} is not allowed")

    def _place(self, node: ast.AST) -> str:
        line = getattr(node, "lineno", 1)
        # The tree counts UTF-8 bytes; people count characters.
        written = self.text.splitlines()[line - 1].encode()[: getattr(node, "col_offset", 0)]
        place = f"character {len(written.decode()) + 1}"
        return place if "\n" not in self.text else f"line {line}, {place}"


def _finite(data: Any) -> _Value:
    present = np.isfinite(data)
    return _Value(data, present, False)


def _example(data: Any, present: Any) -> str:
    """The first value of a text column that is not a number, with its row."""
    if not isinstance(data, np.ndarray):
        return ""
    is_number = to_numbers(pd.Series(data)).notna().to_numpy()
    row = int((present & ~is_number).argmax())
    return (
        f" (row {row + 1} holds {shortened(data[row])!r})"
        if present[row] and not is_number[row]
        else ""
    )


def _column_value(column: pd.Series) -> _Value:
    """A column's values as numbers or, if it holds anything else, as text."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if column.isna().all():
        return _Value(np.nan, False, None)
    if not pd.api.types.is_numeric_dtype(column.dtype):
        kind = pd.api.types.infer_dtype(column, skipna=True)
        if kind in ("boolean", "integer", "floating", "mixed-integer-float", "decimal"):
            column = to_numbers(column.astype(object).where(column.notna(), np.nan))
    present = column.notna().to_numpy(dtype=bool)
    if not pd.api.types.is_numeric_dtype(column.dtype):
        text = to_texts(column.astype(object).where(present, ""))
        return _Value(text.to_numpy(dtype=object), present, True)
    if present.all():
        return _Value(column.to_numpy(), present, False)
    return _Value(column.to_numpy(dtype=np.float64, na_value=np.nan), present, False)
