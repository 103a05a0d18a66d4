"""What the parts of a training choose by themselves."""

from __future__ import annotations

import numpy as np
import pytest

from emorec.building import build_model
from emorec.nn.dropout import Dropout
from emorec.training.loop import train
from emorec.training.parts import chosen_dropout, with_chosen_horizon
from tests.small import small_config, small_log


def _valid(*counts: int):
    """A log in which user u has the u-th of the given numbers of events."""
    rows = [
        (user, place, 0, place) for user, events in enumerate(counts) for place in range(events)
    ]
    return small_log(rows, len(counts), 1_000)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((1, 1, 1), 1),  # the last event of each user
        ((10, 10, 9), 3),
        ((0, 0, 9), 3),  # users without validation events do not count
        ((1, 2, 3), 1),
        ((81, 75), 26),
        ((400, 2), 30),
        ((), 3),
    ],
)
def test_states_predict_a_third_of_a_users_validation_events(counts, expected):
    config = with_chosen_horizon(small_config("loss.horizon=0"), _valid(*counts))
    assert config.loss.horizon == expected


@pytest.mark.parametrize(
    ("setting", "events", "expected"),
    [(-1.0, 299_999, 0.3), (-1.0, 300_000, 0.2), (0.0, 10, 0.0), (0.5, 300_000, 0.5)],
)
def test_large_logs_have_less_dropout(setting, events, expected):
    assert chosen_dropout(setting, events) == expected


def test_training_sets_the_dropout_that_the_log_is_given():
    log = small_log([(user, item, 0, item) for user in range(4) for item in range(6)], 4, 6)
    config = small_config("sequence.dropout=-1", "training.epochs=1")
    model = build_model(config, 4, 6)
    train(model, config, log, log.select(np.zeros(0, dtype=np.int64)), progress=False)
    rates = {each.p for each in model.sequence_encoder.modules() if isinstance(each, Dropout)}
    assert rates == {0.3}


def test_a_given_horizon_stays():
    config = small_config("loss.horizon=7")
    assert with_chosen_horizon(config, _valid(1, 1)) is config
