from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from emorec.data.interactions import Interactions
from emorec.data.writing import frames_of, settings_of


def log(unit="s", rows=3):
    times = np.zeros(rows, dtype=int) if unit == "none" else np.arange(rows)
    columns = ["b", "a", "b"][:rows], [7, 7, 9][:rows], [0, 3, 2][:rows]
    return Interactions.from_columns(*columns, times, unit)


def test_rows_by_hand():
    (frame,) = frames_of(log())
    expected = pd.DataFrame(
        {
            "user_id": ["b", "a", "b"],
            "item_id": [7, 7, 9],
            "feedback": ["explicit_positive", "explicit_negative", "implicit_negative"],
            "timestamp": [0, 1, 2],
        }
    )
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False)


def test_blocks_and_no_rows():
    assert [len(frame) for frame in frames_of(log(), block=2)] == [2, 1]
    nothing = log().select(np.zeros(3, dtype=bool))
    (frame,) = frames_of(nothing)
    assert list(frame.columns) == ["user_id", "item_id", "feedback", "timestamp"] and frame.empty


@pytest.mark.parametrize(
    ("unit", "setting"),
    [("s", ()), ("ms", ("data.time_unit=ms",)), ("none", ("data.time_column=",))],
)
def test_settings(unit, setting):
    assert settings_of(log(unit)) == ("data.feedback_column=feedback", *setting)
    (frame,) = frames_of(log(unit))
    assert ("timestamp" in frame) == (unit != "none")
