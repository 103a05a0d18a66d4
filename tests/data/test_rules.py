import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from emorec.data.expressions import ExpressionError
from emorec.data.feedback import Feedback
from emorec.data.rules import FeedbackRules, shipped_rules


def test_shipped_rules_are_listed() -> None:
    assert shipped_rules() == ("kuairand", "ratings", "yambda")


def test_whole_stars_are_the_four_kinds_and_zero_is_not_rated() -> None:
    frame = pd.DataFrame({"rating": [5, 4, 3, 2, 1, 0, -1, 6]})
    feedback = FeedbackRules.load("ratings").apply(frame)
    assert feedback.dtype == np.int8
    assert feedback.tolist() == [0, 1, 2, 3, 3, -1, -1, -1]


def test_half_stars_land_beside_their_neighbours() -> None:
    frame = pd.DataFrame({"rating": [5, 4.5, 4, 3.5, 3, 2.5, 2, 0.5]})
    assert FeedbackRules.load("ratings").apply(frame).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_kuairand_puts_words_before_deeds() -> None:
    columns = ["is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate"]
    columns += ["long_view", "play_time_ms"]
    rows = [
        ([1, 1, 0, 0, 0, 1, 1, 60_000], 3),  # hated, whatever else
        ([1, 1, 0, 0, 0, 0, 0, 500], 0),  # liked, though skipped soon
        ([0, 0, 1, 0, 0, 0, 0, 0], 0),
        ([1, 0, 0, 1, 0, 0, 0, 9000], 0),
        ([1, 0, 0, 0, 1, 0, 0, 9000], 0),
        ([0, 0, 0, 0, 0, 0, 1, 60_000], 1),  # played by itself and watched long
        ([0, 0, 0, 0, 0, 0, 0, 9000], 2),  # shown, not opened
        ([1, 0, 0, 0, 0, 0, 0, 2999], 2),  # skipped within 3 seconds
        ([1, 0, 0, 0, 0, 0, 0, 3000], -1),  # watched a while: says nothing
    ]
    frame = pd.DataFrame([row for row, _ in rows], columns=columns)
    assert FeedbackRules.load("kuairand").apply(frame).tolist() == [kind for _, kind in rows]


def test_the_first_rule_that_matches_wins() -> None:
    frame = pd.DataFrame({"x": [1, 2, 3]})
    one = FeedbackRules.from_dict({"explicit_positive": "x > 1", "implicit_negative": "x > 0"})
    two = FeedbackRules.from_dict({"implicit_negative": "x == 3", "explicit_positive": "x > 1"})
    assert one.apply(frame).tolist() == [2, 0, 0]
    assert two.apply(frame).tolist() == [-1, 0, 2]


def test_a_kind_may_have_several_expressions(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('explicit_negative = ["hate", "y > x"]\nimplicit_positive = "True"\n')
    rules = FeedbackRules.load(path)
    assert rules.columns == ("hate", "y", "x")
    frame = pd.DataFrame({"hate": [1, 0, 0], "x": [1, 1, 1], "y": [0, 2, 1]})
    assert rules.apply(frame).tolist() == [3, 3, 1]


def test_a_rule_that_matches_nothing_is_warned_of_and_listed() -> None:
    rules = FeedbackRules.from_dict({"explicit_positive": "x > 9", "implicit_positive": "x"})
    with pytest.warns(UserWarning, match="matches no row: explicit_positive = 'x > 9'") as caught:
        match = rules.match(pd.DataFrame({"x": [1]}))
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert [rule.kind for rule in match.unused] == [Feedback.EXPLICIT_POSITIVE]


def test_rules_that_all_match_are_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FeedbackRules.from_dict({"explicit_positive": "x"}).apply(pd.DataFrame({"x": [1]}))


def test_no_match_at_all_shows_rules_and_rows() -> None:
    rules = FeedbackRules.from_dict({"explicit_positive": "x > 9"}, "mine.toml")
    with pytest.raises(ValueError) as caught:
        rules.apply(pd.DataFrame({"x": [41, 42], "noise": [0, 0]}) - 40)
    said = str(caught.value)
    assert "mine.toml: no rule matches any of the 2 rows" in said
    assert "explicit_positive = 'x > 9'" in said
    assert said.endswith(" x\n 1\n 2") and "noise" not in said


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"love": "x"}, "mine: unknown kind of feedback 'love'; the kinds are explicit_positive"),
        ({"explicit_positive": 5}, "mine: explicit_positive must be an expression in quotes"),
        ({"explicit_positive": ["x", True]}, "got True"),
        ({"explicit_positive": {"a": "x"}}, "must be an expression in quotes"),
        ({"explicit_positive": "f(x)"}, "mine: explicit_positive: a function call is not allowed"),
        ({}, "mine: there is no rule; write for example"),
        ({"explicit_positive": []}, "mine: there is no rule"),
    ],
)
def test_wrong_rules_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeedbackRules.from_dict(table, "mine")


def test_an_unknown_column_names_rule_and_nearest_column() -> None:
    rules = FeedbackRules.from_dict({"explicit_positive": "ratng == 5"}, "mine")
    with pytest.raises(ExpressionError, match="mine: explicit_positive: .*did you mean 'rating'"):
        rules.apply(pd.DataFrame({"rating": [5]}))


def test_loading_names_the_file_and_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rules 'ratngs': .*did you mean 'ratings'"):
        FeedbackRules.load("ratngs")
    broken = tmp_path / "broken.toml"
    broken.write_text("explicit_positive = rating == 5\n")
    with pytest.raises(ValueError, match=r"broken\.toml: not valid TOML: .*line 1"):
        FeedbackRules.load(broken)
    broken.write_bytes(b"# \xe9\n")
    with pytest.raises(ValueError, match=r"broken\.toml: .*not UTF-8 text"):
        FeedbackRules.load(broken)
