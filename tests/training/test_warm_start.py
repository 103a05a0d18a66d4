"""A model that starts from the parameters of another one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.building import build_model
from emorec.data.interactions import Interactions
from emorec.training.warm_start import start_from_model
from tests.small import small_config, small_log

# Item 3 is new: users 0 and 1 have it beside item 0. Item 4 is new and nobody else's.
OLD = small_log([(0, 0, 0, 1), (0, 1, 0, 2), (1, 0, 0, 1), (1, 2, 0, 2), (2, 1, 3, 1)], 3, 3)
ROWS = [(0, 0, 0, 1), (0, 3, 0, 5), (1, 0, 0, 1), (1, 3, 0, 5), (2, 1, 3, 1), (2, 2, 0, 2)]
NEW = small_log([*ROWS, (3, 4, 0, 6)], 4, 5)


def _models(*settings: str, preset: str | None = None):
    config = small_config(*settings, preset=preset)
    torch.manual_seed(0)
    old = build_model(config, OLD.num_users, OLD.num_items)
    torch.manual_seed(1)
    return old, build_model(config, NEW.num_users, NEW.num_items)


@pytest.mark.parametrize("preset", ["emorec", "emorec-graph", "base-gat", None])
def test_known_rows_stay_and_the_rest_is_copied(preset):
    old, new = _models(preset=preset)
    start_from_model(new, old, NEW, OLD.users, OLD.items)
    after = dict(new.named_parameters())
    for name, value in old.named_parameters():
        own = after[name]
        if ".tables." in name:  # of each kind of feedback, a row per user
            value, own = (each.unflatten(0, (-1, n)) for each, n in ((value, 3), (own, 4)))
            own = own[:, :3]
        torch.testing.assert_close(own[: len(value)] if value.dim() else own, value)


def test_a_new_item_is_the_mean_of_similar_ones():
    old, new = _models()
    start_from_model(new, old, NEW, OLD.users, OLD.items)
    vectors, known = new.item_vectors, old.item_vectors
    torch.testing.assert_close(vectors[3], known[0])  # the only item it shares users with
    torch.testing.assert_close(vectors[4], known.mean(0))  # shares no user with any


def test_a_new_user_is_the_mean_of_users():
    old, new = _models(preset="base-gat")
    start_from_model(new, old, NEW, OLD.users, OLD.items)
    before, after = (model.graph_encoder.tables["user"].weight for model in (old, new))
    torch.testing.assert_close(after[3], before.mean(0))


def test_rows_are_matched_by_id():
    old, new = _models()
    order = np.array([2, 0, 1, 3, 4])
    log = Interactions(
        *(NEW.user, np.argsort(order)[NEW.item], NEW.feedback, NEW.time),
        NEW.users,
        NEW.items.subset(order),
    )
    start_from_model(new, old, log, OLD.users, OLD.items)
    torch.testing.assert_close(new.item_vectors[:3], old.item_vectors[[2, 0, 1]])
