from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.data.interactions import Interactions
from emorec.data.synthetic import generate
from emorec.scoring import ModelScorer, graph_source
from emorec.training import build_model
from tests.small import small_config

LOG = generate(num_users=30, num_items=50, num_topics=8, events_per_user=10).interactions
KINDS = {
    "both": (),
    "graph of all users": ("", "graph.layers=3"),
    "graph alone": ("diff-gat",),
    "graph without feedback nodes": ("base-gat",),
    "sequence alone": ("emorec", "graph.conv=none"),
}


@pytest.fixture(params=KINDS)
def model(request):
    config = small_config(*KINDS[request.param])
    return build_model(config, LOG.num_users, LOG.num_items)


def test_scores_of_all_items_for_users_in_the_order_given(model):
    scorer = ModelScorer(model, LOG)
    users = torch.tensor([7, 3, 7, 29])
    scores = scorer(users)
    assert scores.shape == (4, LOG.num_items)
    assert scores.dtype == torch.float32
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[0], scores[2])
    for row, user in enumerate(users):
        torch.testing.assert_close(scorer(user[None])[0], scores[row], rtol=1e-4, atol=1e-5)


def test_is_the_model_on_the_whole_history_without_dropout(model):
    scorer = ModelScorer(model, LOG)
    users = torch.arange(5)
    model.train()
    states = scorer.states(users)
    assert torch.equal(scorer.states(users).next, states.next)
    with torch.inference_mode():
        torch.testing.assert_close(scorer(users), model.ranking(states))
    assert not states.next.requires_grad


def test_new_events_of_a_user_change_that_users_scores_alone(model):
    if model.graph_encoder is not None and model.graph_encoder.needs_full_graph:
        pytest.skip("this model lets users' events reach each other")
    last = int(LOG.time.max())
    item = np.flatnonzero(~np.isin(np.arange(LOG.num_items), LOG.item[LOG.user == 4]))[:1]
    more = Interactions(
        np.append(LOG.user, 4),
        np.append(LOG.item, item),
        np.append(LOG.feedback, 0),
        np.append(LOG.time, last + 60),
        LOG.users,
        LOG.items,
    )
    users = torch.arange(10)
    change = (ModelScorer(model, more)(users) - ModelScorer(model, LOG)(users)).abs().amax(1)
    assert change[4] > 1e-5
    assert change[users != 4].max() < 1e-5


def test_users_without_events_get_finite_scores(model):
    rows = LOG.user != 4
    scores = ModelScorer(model, LOG.select(rows))(torch.tensor([4, 5]))
    assert torch.isfinite(scores).all()
    nothing = LOG.select(np.zeros(len(LOG), dtype=bool))
    assert torch.isfinite(ModelScorer(model, nothing)(torch.tensor([4, 5]))).all()


def test_graph_source():
    config = small_config("", "graph.conv=none")
    assert graph_source(build_model(config, 3, 3), None, 3) is None
    for preset, settings, feedback_nodes, full in [
        ("", [], True, False),
        ("", ["graph.layers=3"], True, True),
        ("base-gat", [], False, False),
    ]:
        model = build_model(small_config(preset, *settings), 3, 3)
        source = graph_source(model, None, 3)
        assert (source.feedback_nodes, source.full) == (feedback_nodes, full)
