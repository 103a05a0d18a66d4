"""Feedback rules: conditions that map rows of a log to kinds of feedback, in TOML."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emorec.data.expressions import Expression, ExpressionError
from emorec.data.feedback import Feedback
from emorec.data.files import DataError
from emorec.storage.files import one_line, read_text
from emorec.suggestions import suggestion
from emorec.texts import shortened

__all__ = ["FeedbackRule", "FeedbackRules", "NoRuleMatches", "RuleMatch", "shipped_rules"]

STARS = "rules 'ratings'"  # name of the shipped rules for stars from 1 to 5


class NoRuleMatches(DataError):
    """A log without any row that a rule matches."""


@dataclass(frozen=True)
class FeedbackRule:
    """One line of a rule file: rows that fulfil ``expression`` are of this ``kind``."""

    kind: Feedback
    expression: Expression

    def __str__(self) -> str:
        return f"{self.kind.label} = {self.expression.text!r}"


@dataclass(frozen=True, eq=False)
class RuleMatch:
    """The result of applying rules to a table.

    Attributes:
        feedback: `Feedback` values, int8 ``[N]``, -1 where no rule matches.
        unused: The rules that matched no row first.
    """

    feedback: np.ndarray
    unused: tuple[FeedbackRule, ...]


@dataclass(frozen=True)
class FeedbackRules:
    """Rules in order of precedence; the first one that matches a row decides its feedback.

    Attributes:
        name: Name of the rules in messages.
        rules: The rules, first match wins.
    """

    name: str
    rules: tuple[FeedbackRule, ...]

    @classmethod
    def load(cls, name_or_path: str | Path) -> FeedbackRules:
        """Reads shipped rules ("ratings", "kuairand", "yambda") or a TOML file.

        Raises:
            ValueError: If there are no such rules or the file holds something else.
        """
        if str(name_or_path) in shipped_rules():
            name = f"rules {str(name_or_path)!r}"
            text = (_shipped_folder() / f"{name_or_path}.toml").read_text(encoding="utf-8")
        else:
            path = Path(name_or_path)
            if not path.is_file():
                raise ValueError(
                    f"there are no rules {str(name_or_path)!r}: give a TOML file or one of the "
                    f"shipped rules ({suggestion(str(name_or_path), shipped_rules())})"
                )
            name = str(path)
            text = read_text(path)
        try:
            table = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also of too long a number
            raise ValueError(f"{name}: not valid TOML: {one_line(error)}") from error
        return cls.from_dict(table, name)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], name: str = "rules") -> FeedbackRules:
        """Builds rules from ``{label: expression or list of expressions}``, in its order.

        Raises:
            ValueError: If there is no rule, a label is not a kind of feedback, or an expression is
                not text or cannot be parsed.
        """
        rules: list[FeedbackRule] = []
        for label, expressions in table.items():
            try:
                kind = Feedback.from_label(label)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            for text in expressions if isinstance(expressions, list) else [expressions]:
                if not isinstance(text, str):
                    raise ValueError(
                        f'{name}: {label} must be an expression in quotes, such as "rating == 5", '
                        f"or a list of them, got {shortened(text)!r}"
                    )
                try:
                    rules.append(FeedbackRule(kind, Expression.parse(text)))
                except ExpressionError as error:
                    raise ExpressionError(f"{name}: {label}: {error}") from None
        if not rules:
            raise ValueError(
                f'{name}: there is no rule; write for example explicit_positive = "rating == 5"'
            )
        return cls(name, tuple(rules))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the rules read, in order of appearance."""
        return tuple(dict.fromkeys(c for rule in self.rules for c in rule.expression.columns))

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Those of them that are compared with quoted text."""
        return tuple(dict.fromkeys(c for rule in self.rules for c in rule.expression.text_columns))

    def apply(self, frame: pd.DataFrame) -> np.ndarray:
        """Feedback per row, int8 ``[N]``; -1 where nothing matches. See `match`."""
        return self.match(frame).feedback

    def match(self, frame: pd.DataFrame) -> RuleMatch:
        """Applies the rules to a table.

        Warns:
            UserWarning: For each rule that matches no row first.

        Raises:
            NoRuleMatches: If no rule matches any row.
            ValueError: If a column is absent or of the wrong type.
        """
        found = self.decide(frame)
        if len(found.unused) == len(self.rules):
            raise self.nothing_matches(frame)
        for rule in found.unused:
            warnings.warn(f"{self.name}: this rule matches no row: {rule}", stacklevel=2)
        return found

    def decide(self, frame: pd.DataFrame) -> RuleMatch:
        """Applies the rules to a part of a table, which some or all of them may not match.

        Raises:
            ValueError: If a column is absent or of the wrong type.
        """
        feedback = np.full(len(frame), -1, dtype=np.int8)
        unused = []
        for rule in self.rules:
            try:
                decided = rule.expression.matches(frame) & (feedback < 0)
            except ExpressionError as error:
                raise ExpressionError(f"{self.name}: {rule.kind.label}: {error}") from None
            feedback[decided] = rule.kind
            if not decided.any():
                unused.append(rule)
        return RuleMatch(feedback, tuple(unused))

    def nothing_matches(self, frame: pd.DataFrame, rows: int | None = None) -> NoRuleMatches:
        """The error about a table that no rule matches, of which ``frame`` is the start."""
        rules = "\n".join(f"  {rule}" for rule in self.rules)
        first = frame.reindex(columns=list(self.columns)).head(3).to_string(index=False)
        number = len(frame) if rows is None else rows
        return NoRuleMatches(
            f"{self.name}: no rule matches any of the {number:,} rows. The rules:\n"
            f"{rules}\nThe first rows:\n{first}"
        )


def shipped_rules() -> tuple[str, ...]:
    """Names of the rules that come with the package."""
    files = (entry.name for entry in _shipped_folder().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def _shipped_folder() -> Any:
    return resources.files("emorec.data") / "rules"
