import tomllib
import warnings

import numpy as np
import pandas as pd
import pytest

from emorec.data.feedback import Feedback
from emorec.data.readers import DataError, read_interactions
from emorec.data.rules import FeedbackRules
from emorec.data.scales import require_stars, suggested_rules

UP, PLAYED, SKIPPED, DOWN = Feedback
NONE = -1

# Values of a scale, each beside the feedback that the suggested rules make of it.
SCALES = {
    "thumbs 0 and 1": {0: DOWN, 1: UP},
    "thumbs -1 and 1": {-1: DOWN, 1: UP},
    "thumbs with neither": {-1: DOWN, 0: NONE, 1: UP},
    "dislike, so-so, like": {0: DOWN, 1: SKIPPED, 2: UP},
    "1 to 3": {1: DOWN, 2: PLAYED, 3: UP},
    "1 to 4": {1: DOWN, 2: SKIPPED, 3: PLAYED, 4: UP},
    "1 to 7": dict(enumerate([DOWN, DOWN, SKIPPED, SKIPPED, PLAYED, PLAYED, UP], 1)),
    "0 to 10": dict(enumerate([*[DOWN] * 4, *[SKIPPED] * 2, *[PLAYED] * 3, UP, UP])),
    "0 to 100": {0: DOWN, 39: DOWN, 40: SKIPPED, 59.5: SKIPPED, 60: PLAYED, 90: UP, 100: UP},
    "fractions": {0: DOWN, 0.3: DOWN, 0.5: SKIPPED, 0.6: PLAYED, 0.89: PLAYED, 0.95: UP, 1: UP},
    "-10 to 10": {-10: DOWN, -5.5: DOWN, -5: SKIPPED, -1: SKIPPED, 0: NONE, 5: PLAYED, 10: UP},
    "counts": {1: PLAYED, 2: PLAYED, 7: PLAYED, 31: PLAYED},
    "large counts": {0: NONE, 50: PLAYED, 3000: PLAYED},
    "only likes": {1: UP},
}


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_rules_that_are_suggested_keep_the_polarity(scale):
    values = np.array([*scale] * 4, dtype=float)
    rules = FeedbackRules.from_dict(tomllib.loads(suggested_rules(values)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rule may match none of these few values
        found = rules.apply(pd.DataFrame({"rating": [*scale]}, dtype=float))
    assert found.tolist() == list(scale.values())


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_no_scale_but_stars_is_read_by_default(scale):
    rows = [*scale] * 5
    frame = pd.DataFrame(
        {"user_id": range(len(rows)), "item_id": 1, "rating": rows, "timestamp": 5}
    )
    with pytest.raises(DataError, match="the rules 'ratings' are for stars from 1 to 5") as error:
        read_interactions(frame)
    lines = str(error.value).partition(":\n")[2]
    assert lines == suggested_rules(frame["rating"].to_numpy(dtype=float))
    log, _ = read_interactions(frame, rules=tomllib.loads(lines))
    assert set(log.feedback) <= {kind for kind in scale.values() if kind != NONE}


STARS = np.array([5.0, 4, 3, 2, 1, 4.5, 0.5, 0, np.nan, 5, 4])


@pytest.mark.parametrize("ratings", [STARS, STARS[:5], np.array([np.nan, 0]), np.array([5.0])])
@pytest.mark.parametrize("is_certain", [True, False])
def test_stars_pass(ratings, is_certain):
    require_stars(ratings, "log.csv", is_certain=is_certain)


@pytest.mark.parametrize(
    ("ratings", "passes"),
    [([1, 2, 3, 4], True), ([1, 1, 2, 5], True), ([1] * 9, True), ([1] * 10, False)],
)
def test_what_may_be_stars_passes_if_somebody_says_so(ratings, passes):
    ratings = np.array(ratings, dtype=float)
    with pytest.raises(DataError, match=r"log\.csv: .* are for stars") as error:
        require_stars(ratings, "log.csv", is_certain=False)
    assert ("give --set data.rules=ratings" in str(error.value)) == (ratings.max() > 1)
    if passes:
        require_stars(ratings, "log.csv", is_certain=True)
    else:
        with pytest.raises(DataError, match=r"all ratings are 1, but"):
            require_stars(ratings, "log.csv", is_certain=True)


def test_mostly_low_stars_are_asked_about():
    with pytest.raises(DataError, match="log.csv: 75% of the ratings are below 2.5, but"):
        require_stars(np.array([1.0, 1, 2, 5]), "log.csv", is_certain=False)


def test_events_of_a_model_of_stars():
    require_stars(np.ones(20), "events.csv", is_certain=True, settable=False)
    with pytest.raises(DataError, match="from 7 to 9, .* trained on stars, so rate") as error:
        require_stars(np.array([7.0, 9]), "events.csv", is_certain=True, settable=False)
    assert "--set" not in str(error.value)


def test_zero_is_taken_for_no_rating_where_it_is_most_frequent():
    grades = np.arange(1.0, 11)
    assert "0 < rating < 4" in suggested_rules(np.append(grades, [0, 0]))
    assert "0 <= rating < 4" in suggested_rules(np.append(grades, 0))
