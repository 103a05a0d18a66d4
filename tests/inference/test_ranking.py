from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import sparse

from emorec.baselines import ItemKNN
from emorec.baselines.neighbours import largest_of_rows
from emorec.building import build_model
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.data.synthetic import generate
from emorec.evaluation.scores import BlockScorer
from emorec.inference.ranking import ModelScorer
from emorec.nn.polarity import ItemPolarity
from tests.small import small_config, small_log

LOG = generate(num_users=30, num_items=50, num_topics=8, events_per_user=10).interactions
CONFIGS = {
    "both encoders": small_config(),
    "flagship": small_config("model.aversion=0", preset="emorec"),
    "feedback sum and paths": small_config(preset="emorec-graph"),
    "graph of all users": small_config("graph.layers=3"),
    "graph alone": small_config(preset="diff-gat"),
    "graph without feedback nodes": small_config(preset="base-gat"),
    "sequence alone": small_config("graph.conv=none", "graph.paths=0", preset="emorec"),
}


@pytest.fixture(params=CONFIGS)
def model(request):
    return build_model(CONFIGS[request.param], LOG.num_users, LOG.num_items)


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


@pytest.mark.parametrize("aversion", [0.0, 0.7])
def test_blocks_of_items_have_the_scores_of_all(model, aversion):
    model.aversion = aversion
    if model.feedback_paths is not None:
        similarity = sparse.random(LOG.num_items, LOG.num_items, 0.2, format="csr", random_state=0)
        model.feedback_paths.fit(largest_of_rows(similarity, 3))
    scorer, users = ModelScorer(model, LOG), torch.tensor([7, 3, 29])
    assert isinstance(scorer, BlockScorer)
    blocks = list(scorer.in_blocks(users, 17))
    assert [block.shape for block in blocks] == [(3, 17), (3, 17), (3, 16)]
    torch.testing.assert_close(torch.cat(blocks, dim=1), scorer(users), rtol=1e-5, atol=1e-6)


def test_polarity_of_some_items(model):
    scorer, users = ModelScorer(model, LOG), torch.tensor([7, 3])
    if not isinstance(model.polarity, ItemPolarity):
        with pytest.raises(ValueError, match="does not predict the polarity of items"):
            scorer.polarity(users)
        return
    items = torch.tensor([[4, 9, 4], [0, 49, 1]])
    torch.testing.assert_close(
        scorer.polarity(users, items), scorer.polarity(users).gather(1, items)
    )


def test_states_of_some_tokens_are_those_of_all(model):
    if model.item_embedding is None:
        pytest.skip("this model has no states")
    model.eval()
    scorer, users = ModelScorer(model, LOG), torch.tensor([4, 0, 2])
    inputs = scorer._inputs(users, scorer._sequences(users))
    tokens = torch.tensor([2, 0, 2, 1])
    every, some = model(*inputs), model(*inputs, tokens=tokens)
    torch.testing.assert_close(some.next, every.next[tokens])
    assert (some.taste is None) == (every.taste is None)
    if every.taste is not None:
        torch.testing.assert_close(some.taste, every.taste[tokens])


def test_is_the_model_on_the_whole_history_without_dropout(model):
    if model.item_embedding is None:
        pytest.skip("this model has no states")
    model.aversion = 0  # nothing is taken off
    scorer = ModelScorer(model, LOG)
    users = torch.arange(5)
    model.train()
    states = scorer.states(users)
    assert torch.equal(scorer.states(users).next, states.next)
    items = model.item_embedding.weight.detach()
    torch.testing.assert_close(scorer.terms(users).next_item, states.next @ items.T)
    assert not states.next.requires_grad


def test_of_the_time_of_the_request():
    model = build_model(small_config("sequence.request_time=true"), LOG.num_users, LOG.num_items)
    users, newest = torch.arange(5), int(LOG.time.max())
    requests = np.full(LOG.num_users, newest)
    scores = ModelScorer(model, LOG)(users)
    assert torch.equal(ModelScorer(model, LOG, requests=requests)(users), scores)
    requests[3] += 10**8
    change = (ModelScorer(model, LOG, requests=requests)(users) - scores).abs().amax(1)
    assert (change > 1e-4).tolist() == [False, False, False, True, False]


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


def flagship(*settings, log=LOG):
    model = build_model(small_config(*settings, preset="emorec"), log.num_users, log.num_items)
    model.feedback_paths.fit(ItemKNN(6).fit(LOG).similarity[: log.num_items, : log.num_items])
    return model


class TestTerms:
    def test_sum_to_the_scores(self):
        scorer, users = ModelScorer(flagship(), LOG), torch.arange(9)
        terms = scorer.terms(users)
        assert all(term.shape == (9, LOG.num_items) and term.abs().max() > 0 for term in terms)
        torch.testing.assert_close(scorer(users), sum(terms[1:], terms.next_item))

    def test_that_a_model_lacks_are_none(self):
        model = build_model(small_config(preset="emo-sage-thp"), LOG.num_users, LOG.num_items)
        assert ModelScorer(model, LOG).terms(torch.arange(3))[1:] == (None,) * 4
        model = build_model(small_config(preset="emorec-graph"), LOG.num_users, LOG.num_items)
        terms = ModelScorer(model, LOG).terms(torch.arange(3))
        assert [term is None for term in terms] == [True, False, False, True, True]

    @pytest.mark.parametrize(
        ("lacking", "name"), [("graph.paths=0", "graph"), ("graph.conv=none", "paths")]
    )
    def test_one_of_the_graph_comes_without_the_other(self, lacking, name):
        config = small_config(lacking, "model.aversion=0", preset="emorec")
        scorer = ModelScorer(build_model(config, LOG.num_users, LOG.num_items), LOG)
        terms = scorer.terms(torch.arange(3))._asdict()
        assert [name for name, term in terms.items() if term is not None] == ["next_item", name]

    def test_next_item_is_by_dot_products_with_all_items(self):
        model = build_model(small_config("model.aversion=0", preset="emorec"), 3, 4)
        scorer = ModelScorer(model, small_log([(0, 1, 0, 1)], 3, 4))
        users = torch.tensor([0, 2])
        expected = scorer.states(users).next @ model.item_embedding.weight.detach().T
        torch.testing.assert_close(scorer.terms(users).next_item, expected)
        assert scorer.terms(users).liked is None
        assert scorer.terms(users).dislikes is None

    def test_liked_is_the_log_probability_times_the_aversion(self):
        model = build_model(small_config("model.aversion=2.5", preset="emorec"), 3, 4)
        scorer = ModelScorer(model, small_log([(0, 1, 0, 1), (0, 2, 2, 5)], 3, 4))
        users = torch.tensor([0, 1])
        torch.testing.assert_close(scorer.terms(users).liked, 2.5 * scorer.polarity(users).log())

    def test_of_the_graph_are_its_scores_times_their_weights(self):
        model, users = flagship(), torch.tensor([5, 1])
        scorer = ModelScorer(model, LOG)
        model.feedback_sum.ranking_weight.fill_(3.0)
        model.feedback_paths.ranking_weight.fill_(5.0)
        terms = scorer.terms(users)
        torch.testing.assert_close(terms.graph, 3 * scorer.graph_scores(users))
        torch.testing.assert_close(terms.paths, 5 * scorer.path_scores(users))
        source = model.graph_source(EventSequences.build(LOG), LOG.num_items)
        lengths = EventSequences.build(LOG).lengths[users.numpy()]
        graph = source.graph(users.numpy(), lengths)
        with torch.inference_mode():
            expected = model.feedback_sum.scores(model.feedback_sum(graph))
            from_vectors = model.feedback_sum.scores(scorer.graph_vectors(users))
        torch.testing.assert_close(from_vectors, expected)
        torch.testing.assert_close(scorer.graph_scores(users), expected)
        torch.testing.assert_close(scorer.path_scores(users), model.feedback_paths(graph))

    @pytest.mark.parametrize(("aversion", "factor"), [(0.25, 0.375), (1.0, 1.5), (6.0, 1.5)])
    def test_dislikes_take_off_up_to_one_and_a_half(self, aversion, factor):
        log = small_log([(0, 1, 0, 1), (0, 2, 3, 5), (0, 3, 1, 7), (1, 2, 0, 1)], 2, 9)
        model = flagship(f"model.aversion={aversion}", log=log)
        term = ModelScorer(model, log).terms(torch.tensor([1, 0])).dislikes
        near = model.feedback_paths.nearest(torch.tensor([2]))[0]
        expected = torch.zeros(2, 9)
        expected[1, near] = -factor * math.exp(-1 / 25)
        torch.testing.assert_close(term, expected)

    @pytest.mark.parametrize(
        ("aversion", "length", "setting", "passes"),
        [
            (0.0, 9, "false", 1),  # the state before the dislike is not needed
            (1.0, 9, "false", 1),  # it is that at an earlier token
            (1.0, 2, "false", 2),  # the dislike pushed another event out
            (1.0, 9, "true", 2),  # tokens differ by the time of the request
        ],
    )
    def test_one_pass_is_enough_where_it_can_be(self, aversion, length, setting, passes):
        settings = (f"sequence.max_length={length}", f"sequence.request_time={setting}")
        model = build_model(small_config(*settings, preset="emorec"), 1, 5)
        model.aversion = aversion
        scorer = ModelScorer(model, small_log([(0, 1, 0, 1), (0, 2, 3, 2)], 1, 5))
        found = []
        model.register_forward_hook(lambda *_: found.append(1))
        scorer(torch.tensor([0]))
        assert len(found) == passes


class TestRecentDislikes:
    """Explicit dislikes at the end of a history, and a model with aversion."""

    LIKED, DISLIKED = (4, 7), (11, 12)

    def scorer_after(self, model, *kinds):
        """Scores for user 1, whose events are ``LIKED``, then ``DISLIKED`` of the given kinds."""
        items = [*self.LIKED, *self.DISLIKED][: 2 + len(kinds)]
        rows = [
            (1, item, kind, step)
            for step, (item, kind) in enumerate(zip(items, (0, 1, *kinds), strict=True))
        ]
        others = [(0, item, 0, item) for item in range(3)]
        return ModelScorer(model, small_log(others + rows, 2, 50))

    @pytest.fixture
    def model(self):
        return build_model(small_config("model.aversion=2", "graph.conv=none"), 2, 50)

    def test_do_not_move_the_state(self, model):
        user = torch.tensor([1])
        before = self.scorer_after(model).states(user)
        for kinds in [(3,), (3, 3)]:
            after = self.scorer_after(model, *kinds).states(user)
            torch.testing.assert_close(after.before_dislikes, before.next)
            assert not torch.allclose(after.next, before.next)
            assert not torch.allclose(after.taste, before.taste)
        assert not torch.allclose(
            self.scorer_after(model, 3, 2).states(user).before_dislikes, before.next
        )

    @pytest.mark.parametrize("num_dislikes", [1, 3, 7])
    def test_push_nothing_out_of_a_full_window(self, num_dislikes):
        config = small_config("model.aversion=2", "graph.conv=none", "sequence.max_length=6")
        model, user = build_model(config, 1, 50), torch.tensor([0])
        rows = [(0, item, 0, item) for item in range(9)]
        before = ModelScorer(model, small_log(rows, 1, 50)).states(user)
        rows += [(0, 20 + item, 3, 20 + item) for item in range(num_dislikes)]
        after = ModelScorer(model, small_log(rows, 1, 50)).states(user)
        torch.testing.assert_close(after.before_dislikes, before.next)
        assert not torch.allclose(after.taste, before.taste)

    def test_half_an_aversion_goes_half_the_way(self, model):
        user, terms = torch.tensor([1]), {}
        for aversion in (1e-9, 0.5, 1.0, 3.0):
            model.aversion = aversion
            terms[aversion] = self.scorer_after(model, 3).terms(user).next_item
        torch.testing.assert_close(terms[0.5], (terms[1e-9] + terms[1.0]) / 2)
        torch.testing.assert_close(terms[3.0], terms[1.0])
        assert not torch.allclose(terms[1e-9], terms[1.0])

    def test_a_user_with_nothing_else(self, model):
        log = small_log([(0, 3, 3, 1)], 2, 50)
        assert torch.isfinite(ModelScorer(model, log)(torch.tensor([0]))).all()


def test_a_model_without_a_graph_has_no_scores_of_it():
    model = build_model(small_config("graph.conv=none"), LOG.num_users, LOG.num_items)
    scorer = ModelScorer(model, LOG)
    assert scorer.graph_scores(torch.tensor([0])) is None
    assert scorer.path_scores(torch.tensor([0])) is None


class TestPolarity:
    def test_is_the_heads_probability_after_all_events(self):
        model = build_model(small_config("model.aversion=2"), LOG.num_users, LOG.num_items)
        scorer, users = ModelScorer(model, LOG), torch.tensor([5, 2])
        with torch.inference_mode():
            expected = model.polarity.log_probability(scorer.states(users).taste).exp()
        found = scorer.polarity(users)
        assert torch.equal(found, expected)
        assert ((found > 0) & (found < 1)).all()

    @pytest.mark.parametrize("preset", ["base-gat", "diff-gat-thp-polarity"])
    def test_a_model_without_a_head_for_items(self, preset):
        model = build_model(small_config(preset=preset), LOG.num_users, LOG.num_items)
        with pytest.raises(ValueError, match="does not predict the polarity of items"):
            ModelScorer(model, LOG).polarity(torch.tensor([0]))
