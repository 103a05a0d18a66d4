"""Describes a log and guesses the settings that read it; every guess is a line that says why."""

from __future__ import annotations

import itertools
import re
import tomllib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from emorec.config import Config, ConfigError, parse_setting
from emorec.data.feedback import Feedback
from emorec.data.files import readable
from emorec.data.guessed_rules import guess_rules, words_of
from emorec.data.interactions import TICKS_PER_DAY, Interactions
from emorec.data.readers import ReadReport, load_rules, read_interactions
from emorec.data.rules import FeedbackRules, shipped_rules
from emorec.data.sniffing import encoding_of, first_line, has_commas, is_text, is_value
from emorec.data.table_files import read_table
from emorec.data.tables import DataError, Table, as_frame
from emorec.data.times import Times, parse_times
from emorec.data.usual_names import (
    COUNTS,
    FEEDBACK,
    FORMATS,
    ITEMS,
    RATINGS,
    TIMES,
    USERS,
)
from emorec.storage.files import write_text
from emorec.texts import count, shortened

__all__ = ["Description", "describe"]

_SAMPLE = 1000  # rows that are tried before all of them
_PLAUSIBLE_DAYS = (7_305, 47_482)  # since the epoch: 1990 to 2100
_MOST_RATINGS = 21  # distinct values of a rating without a usual name
_MOST_WORDS = 50  # distinct words of a column of feedback
_FEW = 5  # events


@dataclass(frozen=True)
class Description:
    """A log's figures and the settings that read it; ``str`` is the whole text.

    Attributes:
        source: The file, or "the DataFrame".
        guesses: What was taken for what, and why, one line each.
        problems: What could not be guessed and what to set; if there are any, the log was not read.
        figures: Sizes, kinds of feedback, times and others, one line each.
        settings: Settings of the section ``data`` that read the log, without rules of its own.
        rules: Feedback rules as TOML; "" if ``settings`` name rules or a column of feedback.
        options: Other settings that training on this log needs, such as "split.n=2".
    """

    source: str
    guesses: tuple[str, ...]
    problems: tuple[str, ...]
    figures: tuple[str, ...]
    settings: dict[str, Any]
    rules: str
    options: tuple[str, ...] = ()

    def config_toml(self, rules_file: str | Path = "rules.toml") -> str:
        """The settings as TOML for ``--config``; ``rules_file`` is where `rules` will be."""
        own = {"rules": str(rules_file)} if self.rules else {}
        values: dict[str, dict[str, Any]] = {"data": self.settings | own}
        for option in self.options:
            values |= parse_setting(option)
        return tomli_w.dumps(values)

    def write(self, folder: str | Path) -> Path:
        """Writes ``config.toml`` and, if there are any, ``rules.toml``; returns the former.

        Other rules that are there stay, so that an earlier ``config.toml`` always has its own: the
        new ones are ``rules-2.toml`` then, and so on.

        Raises:
            DataError: If something could not be guessed, so that these files would not work.
        """
        if self.problems:
            raise DataError("\n".join(self.problems))
        folder = Path(folder)
        config, rules, text = folder / "config.toml", folder / "rules.toml", self.rules + "\n"
        if self.rules:
            names = (folder / f"rules-{number}.toml" for number in itertools.count(2))
            while rules.exists() and rules.read_bytes() != text.encode():
                rules = next(names)
            write_text(rules, text)
        write_text(config, self.config_toml(rules))
        return config

    @property
    def summary(self) -> str:
        """Guesses, problems and figures, without the files."""
        parts = [f"{self.source}", *(f"  {line}" for line in self.guesses)]
        if self.problems:
            parts += ["", "Not guessed:", *(f"  {line}" for line in self.problems)]
        if self.figures:
            parts += ["", *self.figures]
        return "\n".join(parts)

    def __str__(self) -> str:
        if self.problems:
            return self.summary
        parts = [self.summary, "", "config.toml:", "", self.config_toml().rstrip()]
        if self.rules:
            parts += ["", "rules.toml:", "", self.rules]
        if "dataset" in self.settings:
            parts += ["", "Train with:", "  emorec-train --config config.toml"]
        else:
            parts += [
                "",
                "Train with:",
                '  EmoRec(config=load_config(file=Path("config.toml"))).fit(frame)',
            ]
        return "\n".join(parts)


def describe(source: Any, *settings: str) -> Description:
    """Describes a log and guesses columns, times and feedback rules.

    Columns are taken by usual names first, then by content: the first column of plausible times,
    the first two columns of repeated ids as user and item, then a column of few numbers as rating.
    The scale of ratings decides the rules; a log without ratings has implicit positive feedback.

    Args:
        source: A csv, tsv, JSON lines or parquet file, or a DataFrame.
        settings: Settings of the section ``data`` that replace guesses, such as
            "data.user_column=Kunde".

    Raises:
        ConfigError: If a setting is wrong or of another section.
        DataError: If the file is not a table.
        TypeError: If ``source`` is neither a file name nor a table.
    """
    return _Guesser(source, _given(settings)).description()


class _Guesser:
    """The settings that are known so far, and why."""

    def __init__(self, source: Any, given: dict[str, Any]) -> None:
        self.source, self.given = source, given
        self.settings = dict(given)
        self.guesses = [f"{key}: {value!r}, as set" for key, value in given.items()]
        self.problems: list[str] = []
        self.rules = ""
        self.table = self._read()
        self.frame = self.table.frame
        self.taken = {value for key, value in given.items() if key.endswith("_column") and value}
        self.distinct = {name: _distinct(self.frame[name]) for name in self.frame.columns}

    def description(self) -> Description:
        """Guesses in turn, then reads the log with what was guessed."""
        self._ids_by_name()
        self._time()
        shipped = self._shipped_rules()
        has_feedback = shipped or "feedback_column" in self.given or self._feedback_column()
        needs_rating = not has_feedback or self._rules_need_rating()
        rating = self.given.get("rating_column")
        if needs_rating:
            rating = rating or self._rating_by_name()
        self._ids_by_content()
        if needs_rating:
            rating = rating or self._rating_by_content()
        if not has_feedback:
            self._rules(rating)
        self._name_columns()
        for name, value in self.settings.items():
            is_column = name.endswith("_column") and value
            known = self.settings.get("names", "").split(",") + list(self.table.names)
            if is_column and value not in map(str.strip, known):
                self.problems.append(
                    f"{name}: there is no column {value!r}; the columns are "
                    f"{', '.join(self.table.names)}"
                )
        figures: tuple[str, ...] = ()
        options: tuple[str, ...] = ()
        if not self.problems:
            figures, options = self._figures()
        return Description(
            self.table.source, tuple(self.guesses), tuple(self.problems), figures,
            self.settings, self.rules, options,
        )  # fmt: skip

    def _set(self, key: str, value: Any, why: str) -> None:
        if key not in self.given:
            self.settings[key] = value
            self.guesses.append(f"{key}: {value!r}, {why}")
        if key.endswith("_column") and value:
            self.taken.add(value)

    # Reading

    def _read(self) -> Table:
        frame = as_frame(self.source)
        if frame is not None:
            return Table.of_frame(frame)
        if not isinstance(self.source, str | Path):
            raise TypeError(f"give a file or a DataFrame, got {type(self.source).__qualname__}")
        path = Path(self.source)
        self.settings = {"dataset": str(path)} | self.settings
        suffixes = [each.lower() for each in path.suffixes if each.lower() != ".gz"] or [""]
        if suffixes[-1] in (".parquet", ".pq") or not path.is_file():
            return read_table(path)  # what is no file is refused there
        with readable(str(path), self.given.get("encoding", "utf-8")):
            encoding = self.given.get("encoding") or encoding_of(path)
            delimiter, cells = first_line(path, encoding)
        if encoding != "utf-8":
            self._set("encoding", encoding, "as the file is not UTF-8")
        if suffixes[-1] in (".json", ".jsonl", ".ndjson"):
            return read_table(path, encoding=encoding)
        columns = None
        if names := self.given.get("names"):
            columns = [name.strip() for name in names.split(",")]
        elif any(map(is_value, cells)):
            columns = [f"column_{place}" for place in range(1, len(cells) + 1)]
            self.settings["names"] = ",".join(columns)
            self.guesses.append(
                f"names: the first line is a row, so the columns are called {', '.join(columns)}"
            )
        decimal = self.given.get("decimal", ".")
        table = read_table(
            path, names=columns, delimiter=delimiter, encoding=encoding, decimal=decimal
        )
        commas = [name for name in table.frame.columns if has_commas(table.frame[name])]
        if commas and "decimal" not in self.given:
            self._set("decimal", ",", f"as in column {commas[0]!r}")
            table = read_table(
                path, names=columns, delimiter=delimiter, encoding=encoding, decimal=","
            )
        return table

    # Columns

    def _named(self, usual: Iterable[str]) -> str | None:
        plain = {_plain(name): name for name in reversed(self.frame.columns)}
        found = (plain[name] for name in usual if name in plain)
        return next((name for name in found if name not in self.taken), None)

    def _free(self) -> list[str]:
        return [name for name in self.frame.columns if name not in self.taken]

    def _ids_by_name(self) -> None:
        for key, usual in (("user_column", USERS), ("item_column", ITEMS)):
            if key not in self.given and (name := self._named(usual)) is not None:
                self._set(key, name, "by its name")

    def _ids_by_content(self) -> None:
        rows = len(self.frame)
        for key, what in (("user_column", "users"), ("item_column", "items")):
            if key in self.settings:
                continue
            like_ids = [name for name in self._free() if self._is_like_ids(name)]
            repeated = [name for name in like_ids if self.distinct[name] < rows]
            if found := repeated or like_ids:
                number = self.distinct[found[0]]
                self._set(
                    key, found[0], f"the first free column that looks like ids ({number:,} {what})"
                )
            else:
                self.problems.append(
                    f"{key}: no column looks like ids of {what}; give --set data.{key}=NAME, one "
                    f"of {', '.join(self.table.names)}"
                )

    def _is_like_ids(self, name: str) -> bool:
        values = self.frame[name]
        if self.distinct[name] < 2 or values.isna().any():
            return False
        if pd.api.types.is_bool_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
            return False
        return not pd.api.types.is_float_dtype(values) or bool((values % 1 == 0).all())

    def _time(self) -> None:
        if "time_column" in self.given:
            if self.given["time_column"] in self.frame.columns:
                self._take_time(self.given["time_column"], "as set", lambda times: True)
            return
        while (name := self._named(TIMES)) is not None:
            if self._take_time(name, "by its name", lambda times: True):
                return
            self.taken.add(name)
            missing = int(self.frame[name].isna().sum())
            why = f"{count(missing, 'row')} without a time"
            if not missing:
                why = f"unknown format ({shortened(self.frame[name].iloc[0])!r})"
            fix = "fill them in" if missing else "set data.time_format"
            self.guesses.append(
                f"time: column {name!r} is not taken: {why}; to use it, {fix} and set "
                f"data.time_column={name}"
            )
        for name in self._free():
            if self._take_time(name, "as its values look like times", _is_plausible):
                return
        self._set("time_column", "", "as there are no times: the order of rows is that of events")

    def _take_time(self, name: str, why: str, fits: Callable[[Times], bool]) -> bool:
        values = self.frame[name]
        if values.isna().any() or pd.api.types.is_bool_dtype(values):
            return False
        unit = self.given.get("time_unit", "auto")
        sample = Table.of_frame(self.frame[[name]].head(_SAMPLE))
        given = self.given.get("time_format")
        readable = []
        for form in (given,) if given else (None, *FORMATS):
            try:
                parse_times(sample, name, unit, form)
                times = parse_times(self.table, name, unit, form)
            except DataError:
                continue
            if fits(times):
                readable.append((form, times))
            if form is None:
                break
        if not readable:
            return False
        form, times = readable[0]
        self._set("time_column", name, f"{why}; {times.note}")
        if form is not None:
            also = f", though {readable[1][0]!r} fits, too" if len(readable) > 1 else ""
            self._set("time_format", form, f"as all values are of this format{also}")
        return True

    # Feedback

    def _shipped_rules(self) -> bool:
        """Takes rules that are set, or shipped ones whose columns the log has."""
        if self.given.get("rules"):
            return True
        for name in shipped_rules():
            columns = set(FeedbackRules.load(name).columns)
            if len(columns) > 1 and columns <= set(self.frame.columns):
                self._set("rules", name, f"as the log has its columns {', '.join(sorted(columns))}")
                return True
        return False

    def _rules_need_rating(self) -> bool:
        rules = self.settings.get("rules", "")
        return rules != "" and "rating" in load_rules(rules).columns

    def _feedback_column(self) -> bool:
        labels = {kind.label for kind in Feedback}
        named = [name for name in self._free() if _plain(name) in FEEDBACK]
        for name in [*named, *self._free()]:
            if 1 <= self.distinct[name] <= len(labels) and set(self.frame[name]) <= labels:
                self._set("feedback_column", name, "as its values are kinds of feedback")
                return True
        return False

    def _rating_by_name(self) -> str | None:
        plain = [name for usual in (*RATINGS, *COUNTS) if (name := self._named([usual]))]
        usable = [name for name in plain if self._is_rating(name)]
        if not plain:
            return None
        name = (usable or plain)[0]
        self._set("rating_column", name, "by its name")
        return name

    def _is_rating(self, name: str) -> bool:
        values = self.frame[name]
        if is_text(values):
            return 0 < self.distinct[name] <= _MOST_WORDS and bool(words_of(values))
        return pd.api.types.is_numeric_dtype(values) and bool(values.notna().any())

    def _rating_by_content(self) -> str | None:
        most = min(_MOST_RATINGS, len(self.frame) // 2)
        for name in self._free():
            are_words = is_text(self.frame[name])
            if self._is_rating(name) and (are_words or 2 <= self.distinct[name] <= most):
                what = "words for likes or plays" if are_words else "few distinct numbers"
                self._set("rating_column", name, f"the first free column of {what}")
                return name
        return None

    def _rules(self, rating: str | None) -> None:
        if rating is None:
            self.rules = 'implicit_positive = "True"'
            self.guesses.append(
                "rules: each row is implicit positive feedback, as no column looks like ratings"
            )
            return
        if rating not in self.frame.columns:
            return  # reported with the other columns
        are_counts = _plain(rating) in COUNTS
        found = guess_rules(rating, self.frame[rating], self.table.source, are_counts)
        self.rules = found.rules
        if found.shipped:
            self._set("rules", found.shipped, found.why)
        elif found.rules:
            self.guesses.append(f"rules: {found.why}")
        else:
            self.problems.append(f"rules: {found.why}")

    # Names, figures

    def _name_columns(self) -> None:
        """Gives the columns of a file without a header the default names."""
        if "names" in self.given or "names" not in self.settings:
            return
        default = Config().data
        names = self.settings["names"].split(",")
        for key in ("user_column", "item_column", "time_column", "rating_column"):
            column = self.settings.get(key)
            if column in names and key not in self.given:
                names[names.index(column)] = self.settings[key] = getattr(default, key)
        self.settings["names"] = ",".join(names)
        self.guesses.append(f"names: renamed to {', '.join(names)}")

    def _figures(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        config = Config().updated({"data": self.settings}, "the guessed settings")
        own = self.source if as_frame(self.source) is None else self.frame
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                rules = tomllib.loads(self.rules) if self.rules else self.settings.get("rules")
                log, report = read_interactions(own, **config.data.reading, rules=rules)
            except ValueError as error:
                self.problems.append(f"the log cannot be read with these settings: {error}")
                return (), ()
        notes = [f"note: {each.message}" for each in caught]
        most = int(np.bincount(log.user).max())
        options: tuple[str, ...] = ()
        if most <= config.split.n:
            held_out = max(1, most // 4)
            options = (f"split.n={held_out}",)
            self.guesses.append(
                f"split.n: {held_out}, as no user has more than {config.split.n} events, of which "
                "the newest are held out"
            )
        return (*_figures_of(log, report), *dict.fromkeys(notes)), options


def _given(settings: Iterable[str]) -> dict[str, Any]:
    """Settings of the section ``data``, checked."""
    given: dict[str, Any] = {}
    for setting in settings:
        for section, values in parse_setting(setting).items():
            if section != "data":
                raise ConfigError(
                    f"--set {setting}: only settings of the section data can be given here"
                )
            given |= values
    if "dataset" in given:
        raise ConfigError("--set data.dataset: give the file as the argument instead")
    Config().with_settings(*settings)
    return given


def _figures_of(log: Interactions, report: ReadReport) -> tuple[str, ...]:
    rows, users, items = len(log), log.num_users, log.num_items
    pairs = len(np.unique(log.user * items + log.item))
    dropped = ", ".join(f"{number:,} {why}" for why, number in report.dropped.items() if number)
    per_user, per_item = np.bincount(log.user), np.bincount(log.item)
    lines = [
        f"rows      {report.rows_read:,}, of which {rows:,} are kept"
        + (f" (left out: {dropped})" if dropped else ""),
        f"users     {users:,}, {(per_user < _FEW).sum():,} of them with fewer than five events",
        f"items     {items:,}, {(per_item < _FEW).sum():,} of them with fewer than five events",
        *(
            f"feedback  {number:,} {kind.label.replace('_', '-')} ({number / rows:.1%})"
            for kind, number in report.feedback.items()
        ),
        f"repeats   {rows - pairs:,} rows of items that their user has seen before",
        f"sparsity  {1 - pairs / (users * items):.2%} of the pairs of user and item have no event",
    ]
    if log.time_unit == "none":
        return (*lines, f"times     none: {report.time_note.partition(': ')[2]}")
    ties = pd.DataFrame({"user": log.user, "time": log.time}).duplicated(keep=False).sum()
    first, last = (
        np.datetime64(int(time) // TICKS_PER_DAY[log.time_unit], "D")
        for time in (log.time.min(), log.time.max())
    )
    return (
        *lines,
        f"ties      {ties:,} rows at the same time as another row of their user",
        f"times     {first} to {last} (UTC)",
    )


def _plain(name: str) -> str:
    """A column's name as `USERS` and others spell it; "user_id:token" is RecBole's."""
    return re.sub(r"[^a-z0-9]", "", str(name).partition(":")[0].lower())


def _distinct(values: pd.Series) -> int:
    """Number of distinct values; 0 where they are lists or objects."""
    try:
        return int(values.nunique())
    except TypeError:
        return 0


def _is_plausible(times: Times) -> bool:
    first, last = (
        int(t) // TICKS_PER_DAY[times.unit] for t in (times.values.min(), times.values.max())
    )
    return _PLAUSIBLE_DAYS[0] <= first and last <= _PLAUSIBLE_DAYS[1]
