from __future__ import annotations

import numpy as np
import pytest
import torch

from emorec.building import build_model
from emorec.data.graph import build_graph, schema
from emorec.nn.graph_encoder import GraphEncoder
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity, NextPolarity
from emorec.nn.sequence_encoder import SequenceEncoder
from tests.small import random_events, small_config

SIZE, NUM_USERS, NUM_ITEMS = 8, 7, 9
EVENTS = random_events(NUM_USERS, NUM_ITEMS)
USERS = np.array([3, 0])
BATCH = EVENTS.inference_batch(USERS, 20)
GRAPH = build_graph(EVENTS, USERS, EVENTS.lengths[USERS], NUM_ITEMS)
NODES = torch.arange(2)


def make_model(graph=True, sequence=True, polarity=None, **options):
    return Recommender(
        NUM_ITEMS,
        SIZE,
        GraphEncoder(schema(), NUM_USERS, SIZE, backend="torch") if graph else None,
        SequenceEncoder(SIZE, 20, num_heads=2) if sequence else None,
        polarity,
        **options,
    ).eval()


class TestState:
    def test_is_the_sum_of_both_encoders(self):
        model = make_model()
        items = model.item_embedding.weight
        vector = model.graph_encoder(GRAPH, items)
        expected = model.sequence_encoder(BATCH, items) + vector[BATCH.row]
        torch.testing.assert_close(model(BATCH, GRAPH, NODES).next, expected)

    def test_sequence_alone(self):
        model = make_model(graph=False)
        expected = model.sequence_encoder(BATCH, model.item_embedding.weight)
        assert torch.equal(model(BATCH).next, expected)

    def test_graph_alone_is_the_same_after_each_event(self):
        model = make_model(sequence=False)
        vector = model.graph_encoder(GRAPH, model.item_embedding.weight)
        assert torch.equal(model(BATCH, GRAPH, NODES).next, vector[BATCH.row])

    def test_nodes_say_whose_vector_is_whose(self):
        model = make_model(sequence=False)
        vector = model.graph_encoder(GRAPH, model.item_embedding.weight)
        assert torch.equal(model(BATCH, GRAPH, NODES.flip(0)).next, vector[1 - BATCH.row])

    def test_the_graph_is_left_out_where_it_may_not_be_seen(self):
        model = make_model()
        sees = torch.arange(len(BATCH.item)) % 2 == 0
        state = model(BATCH, GRAPH, NODES, sees).next
        with_graph = model(BATCH, GRAPH, NODES).next
        sequence = model.sequence_encoder(BATCH, model.item_embedding.weight)
        torch.testing.assert_close(state, torch.where(sees[:, None], with_graph, sequence))

    def test_unseen_graph_gets_no_gradient(self):
        model = make_model()
        nobody = torch.zeros(len(BATCH.item), dtype=torch.bool)
        model(BATCH, GRAPH, NODES, nobody).next.sum().backward()
        for parameter in model.graph_encoder.parameters():
            assert parameter.grad is None or parameter.grad.abs().sum() == 0

    def test_a_graph_that_informs_the_polarity_alone(self):
        model = make_model(polarity=NextPolarity(SIZE), graph_informs="polarity")
        items = model.item_embedding.weight
        sequence = model.sequence_encoder(BATCH, items)
        states = model(BATCH, GRAPH, NODES)
        assert torch.equal(states.next, sequence)
        vector = model.graph_encoder(GRAPH, items)
        torch.testing.assert_close(states.taste, sequence + vector[BATCH.row])

    def test_the_head_for_items_takes_the_graph_alone(self):
        head = ItemPolarity(NUM_ITEMS, SIZE)
        torch.nn.init.normal_(head.project.weight)
        model = make_model(polarity=head, graph_informs="polarity")
        vector = model.graph_encoder(GRAPH, model.item_embedding.weight)[BATCH.row]
        expected = head.taste(torch.full_like(vector, torch.nan), vector, BATCH)
        torch.testing.assert_close(model(BATCH, GRAPH, NODES).taste, expected)
        model = make_model(graph=False, polarity=head)
        torch.testing.assert_close(model(BATCH).taste, head.taste(vector, None, BATCH))

    @pytest.mark.parametrize("parts", [{"sequence": False}, {"polarity": None}])
    def test_which_needs_something_else_to_say_what_comes_next(self, parts):
        options = {"polarity": NextPolarity(SIZE), "graph_informs": "polarity", **parts}
        with pytest.raises(ValueError, match="informs the polarity alone needs"):
            make_model(**options)

    def test_a_head_for_what_comes_next_sees_the_same_state(self):
        for graph in (True, False):
            states = make_model(graph=graph, polarity=NextPolarity(SIZE))(BATCH, GRAPH, NODES)
            assert states.next is states.taste

    def test_without_a_head_there_is_no_taste(self):
        assert make_model()(BATCH, GRAPH, NODES).taste is None

    def test_the_head_for_items_needs_events(self):
        with pytest.raises(ValueError, match="needs a sequence encoder"):
            make_model(sequence=False, polarity=ItemPolarity(NUM_ITEMS, SIZE))

    def test_a_model_needs_an_encoder(self):
        with pytest.raises(ValueError, match="needs an encoder, a feedback sum or feedback paths"):
            make_model(graph=False, sequence=False)


def test_scores_are_dot_products():
    model = make_model()
    state = torch.randn(3, SIZE)
    items = torch.tensor([[0, 8], [4, 4], [7, 1]])
    expected = (state @ model.item_embedding.weight.T).gather(1, items)
    torch.testing.assert_close(model.scores(state, items), expected)


@pytest.mark.parametrize("polarity", [None, NextPolarity(SIZE)])
def test_aversion_needs_a_head_for_items(polarity):
    with pytest.raises(ValueError, match="aversion 1.0 needs a head"):
        make_model(polarity=polarity, aversion=1.0)


def test_graph_source():
    assert make_model(graph=False).graph_source(None, 3) is None
    for preset, settings, feedback_nodes, full in [
        ("", [], True, False),
        ("", ["graph.layers=3"], True, True),
        ("base-gat", [], False, False),
    ]:
        model = build_model(small_config(*settings, preset=preset), 3, 3)
        source = model.graph_source(None, 3)
        assert (source.feedback_nodes, source.full) == (feedback_nodes, full)


def test_models_without_a_polarity_head_have_no_parameters_for_it():
    assert not any("polarity" in name for name in make_model().state_dict())


def test_items_start_small():
    encoder = SequenceEncoder(SIZE, 20, num_heads=1)
    weight = Recommender(2000, SIZE, None, encoder).item_embedding.weight
    assert weight.detach().std().item() == pytest.approx(0.1, rel=0.05)
