"""Guesses feedback rules from the column of ratings: stars, other scales, counts or words."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from emorec.data.feedback import Feedback
from emorec.data.scales import require_stars, suggested_rules
from emorec.data.sniffing import is_text
from emorec.data.tables import DataError, to_numbers, to_texts
from emorec.data.usual_names import WORDS
from emorec.texts import count, shortened

__all__ = ["GuessedRules", "guess_rules", "words_of"]


class GuessedRules(NamedTuple):
    """Rules that fit a column, and why.

    Attributes:
        why: What the rules follow from; if there are none, what to do.
        rules: Rules as TOML; "" if ``shipped`` has a name or nothing fits.
        shipped: Name of shipped rules; "" if ``rules`` has some or nothing fits.
    """

    why: str
    rules: str = ""
    shipped: str = ""


def guess_rules(column: str, values: pd.Series, source: str, are_counts: bool) -> GuessedRules:
    """Guesses the rules of a column of ratings; more is taken as better.

    Args:
        column: Its name.
        values: Its values.
        source: Name of the log in messages.
        are_counts: Whether the numbers count events, as the column's name says.
    """
    numbers = to_numbers(values).to_numpy(dtype=np.float64, na_value=np.nan)
    given = numbers[np.isfinite(numbers)]
    if len(given) < values.notna().sum() or not len(given):
        return _rules_of_words(column, values)
    distinct = count(len(np.unique(given)), "value")
    span = f"ratings from {given.min():g} to {given.max():g}, {distinct}"
    if are_counts:
        rules = 'implicit_positive = "rating > 0"'
        if set(given) == {0.0, 1.0}:
            rules += '\nimplicit_negative = "rating == 0"'
        return GuessedRules(f"for counts of events, by the column's name; {span}", rules)
    try:
        require_stars(given, source, is_certain=False)
    except DataError:
        may_be_stars = given.min() >= 0 and 1 < given.max() <= 5
        sure = "; for stars from 1 to 5 set data.rules=ratings" if may_be_stars else ""
        why = f"by the scale, more is better; {span}{sure}"
        return GuessedRules(why, suggested_rules(given))
    why = f"as these look like stars from 1 to 5, 5 the best; {span}"
    return GuessedRules(why, shipped="ratings")


def _rules_of_words(column: str, values: pd.Series) -> GuessedRules:
    words = words_of(values) if is_text(values) else {}
    if not words:
        texts = to_texts(values.dropna())
        example = shortened(texts.iloc[0]) if len(texts) else ""
        fix = "write rules such as explicit_positive = \"rating == '...'\" and give --set "
        fix += "data.rules=FILE"
        if len(texts) and texts.str.fullmatch(r"[\d.,]+ ?%").all():
            fix = "write percentages without the sign"
        return GuessedRules(
            f"column {column!r} is neither numbers nor known words, such as {example!r}; {fix}, "
            "or give another column, --set data.rating_column=NAME"
        )
    lines = []
    for kind in Feedback:
        if own := [word for word, of in words.items() if of is kind]:
            conditions = ", ".join(f"\"rating == '{word}'\"" for word in own)
            lines.append(f"{kind.label} = [{conditions}]")
    known = ", ".join(f"{word!r} is {kind.label}" for word, kind in words.items())
    texts = to_texts(values.dropna())  # lists, which JSON can hold, have no hash
    unknown = texts[~texts.isin(list(words))]
    rest = ""
    if len(unknown):
        names = ", ".join(repr(shortened(word)) for word in unknown.unique()[:5])
        rest = f"; no rule matches {count(len(unknown), 'row')}, such as {names}"
    return GuessedRules(f"by the words of column {column!r}: {known}{rest}", "\n".join(lines))


def words_of(values: pd.Series) -> dict[str, Feedback]:
    """The kinds of feedback of those words of a column that are known."""
    kinds = {word: kind for kind, words in WORDS.items() for word in words}
    unique = to_texts(values.dropna()).unique()
    return {
        word: kinds[key]
        for word in unique[:100]
        if (key := re.sub(r"[^a-z]+", "_", word.lower()).strip("_")) in kinds
        and not re.search(r"['\"\\\n\r]", word)  # these would end the text in a rule
    }
