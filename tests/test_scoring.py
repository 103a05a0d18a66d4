from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.baselines import ItemKNN
from emorec.building import build_model
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.data.synthetic import generate
from emorec.scoring import ModelScorer, graph_source
from tests.small import small_config, small_log

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
    model.aversion = 0  # nothing is taken off, see TestAnswers
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


class TestAnswers:
    """What explicit dislikes at the end of a history do to a model with aversion."""

    LIKED, REFUSED = (4, 7), (11, 12)

    def scorer(self, model, *kinds):
        """Of one user, who met ``LIKED`` and then ``REFUSED`` with the given kinds."""
        items = [*self.LIKED, *self.REFUSED][: 2 + len(kinds)]
        rows = [
            (0, item, kind, step)
            for step, (item, kind) in enumerate(zip(items, (0, 1, *kinds), strict=True))
        ]
        return ModelScorer(model, small_log(rows, 1, 50))

    @pytest.fixture
    def model(self):
        return build_model(small_config("", "model.aversion=2", "graph.conv=none"), 1, 50)

    def test_what_comes_next_is_told_from_the_last_event_that_is_no_explicit_dislike(self, model):
        user = torch.tensor([0])
        before = self.scorer(model).states(user)
        for kinds in [(3,), (3, 3)]:
            after = self.scorer(model, *kinds).states(user)
            torch.testing.assert_close(after.next, before.next)
            assert not torch.allclose(after.taste, before.taste)
        assert not torch.allclose(self.scorer(model, 3, 2).states(user).next, before.next)

    @pytest.mark.parametrize("num_refused", [1, 3, 7])
    def test_refusals_push_nothing_out_of_a_full_window(self, num_refused):
        config = small_config("", "model.aversion=2", "graph.conv=none", "sequence.max_length=6")
        model, user = build_model(config, 1, 50), torch.tensor([0])
        rows = [(0, item, 0, item) for item in range(9)]
        before = ModelScorer(model, small_log(rows, 1, 50)).states(user)
        rows += [(0, 20 + item, 3, 20 + item) for item in range(num_refused)]
        after = ModelScorer(model, small_log(rows, 1, 50)).states(user)
        torch.testing.assert_close(after.next, before.next)
        assert not torch.allclose(after.taste, before.taste)

    def test_half_an_aversion_goes_half_the_way(self, model):
        user = torch.tensor([0])
        states = {}
        for aversion in (0.0, 0.5, 1.0, 3.0):
            model.aversion = aversion
            states[aversion] = self.scorer(model, 3).states(user).next
        torch.testing.assert_close(states[0.5], (states[0.0] + states[1.0]) / 2)
        torch.testing.assert_close(states[3.0], states[1.0])
        assert not torch.allclose(states[0.0], states[1.0])

    @pytest.mark.parametrize("kinds", [(3,), (3, 3), (2, 3), (3, 0)])
    def test_takes_the_aversion_off_what_is_near_to_the_refused(self, model, kinds):
        scorer = self.scorer(model, *kinds)
        user = torch.tensor([0])
        with torch.inference_mode():
            taken = model.ranking(scorer.states(user)) - scorer(user)
        refused = [item for item, kind in zip(self.REFUSED, kinds, strict=False) if kind == 3]
        if kinds[-1] != 3:
            refused = []  # an event came after it
        near = model.is_near(torch.tensor(refused, dtype=torch.int64)).any(0)
        assert near.sum() >= len(refused) * 7
        torch.testing.assert_close(taken[0], 2.0 * near, atol=1e-5, rtol=0)

    def test_more_refusals_than_a_window_holds(self):
        # [CLS] is among the tokens since, and no item: as an index it would be the last one.
        config = small_config("", "model.aversion=2", "graph.conv=none", "sequence.max_length=4")
        model, user = build_model(config, 1, 50), torch.tensor([0])
        scorer = ModelScorer(model, small_log([(0, item, 3, item) for item in range(6)], 1, 50))
        with torch.inference_mode():
            taken = model.ranking(scorer.states(user)) - scorer(user)
        near = model.is_near(torch.tensor([3, 4, 5])).any(0)
        assert not near[49]
        torch.testing.assert_close(taken[0], 2.0 * near, atol=1e-5, rtol=0)

    def test_a_user_who_only_refused(self, model):
        log = small_log([(0, 3, 3, 1)], 1, 50)
        assert torch.isfinite(ModelScorer(model, log)(torch.tensor([0]))).all()


def test_neighbours_add_their_weighted_votes():
    model = build_model(small_config("", "model.neighbours=5"), LOG.num_users, LOG.num_items)
    model.neighbours.remember(ItemKNN(6).fit(LOG).similarity)
    users = torch.arange(4)
    scorer = ModelScorer(model, LOG)
    model.neighbours.weight.zero_()
    without = scorer(users)
    model.neighbours.weight.fill_(3.0)
    batch = EventSequences.build(LOG).inference_batch(users.numpy(), 20)
    torch.testing.assert_close(scorer(users), without + 3 * model.neighbours(batch))
    assert torch.equal(scorer.without_vote(users), without)
    assert torch.equal(scorer.vote(users), model.neighbours(batch))


def test_a_model_without_neighbours_has_no_vote():
    model = build_model(small_config(), LOG.num_users, LOG.num_items)
    with pytest.raises(ValueError, match="no neighbours: model.neighbours is 0"):
        ModelScorer(model, LOG).vote(torch.tensor([0]))


class TestPolarity:
    def test_is_the_heads_probability_after_all_events(self):
        model = build_model(small_config("", "model.aversion=2"), LOG.num_users, LOG.num_items)
        scorer, users = ModelScorer(model, LOG), torch.tensor([5, 2])
        with torch.inference_mode():
            expected = model.polarity.log_probability(scorer.states(users).taste).exp()
        found = scorer.polarity(users)
        assert torch.equal(found, expected)
        assert ((found > 0) & (found < 1)).all()

    @pytest.mark.parametrize("settings", [("base-gat",), ("diff-gat-thp-polarity",)])
    def test_a_model_that_does_not_judge_items_says_so(self, settings):
        model = build_model(small_config(*settings), LOG.num_users, LOG.num_items)
        with pytest.raises(ValueError, match="does not know the polarity of items"):
            ModelScorer(model, LOG).polarity(torch.tensor([0]))
