from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from emorec.building import build_model
from emorec.data.graph import GraphSource, schema
from emorec.data.sequences import EventSequences
from emorec.data.vocabulary import Vocabulary
from emorec.nn.feedback_sum import FeedbackSum
from emorec.processes import ALONE
from emorec.training.batches import half_batches, training_batches
from emorec.training.candidates import CandidateSampler
from emorec.training.losses import Objective, bpr_loss, polarity_loss, sum_loss
from emorec.training.sampling import ItemSampler
from emorec.training.sharding import ItemShards
from emorec.training.shares import Share
from emorec.training.softmax import catalogue_loss, draw_candidates, sampled_softmax_loss
from tests.small import random_events, small_config, small_log
from tests.training.in_threads import together

INF = math.inf


NUM_USERS, NUM_ITEMS = 12, 10
EVENTS = random_events(NUM_USERS, NUM_ITEMS, most_events=9)
RANKED = {"any": {0, 1, 2, 3}, "positive": {0, 1}, "explicit_positive": {0}}
DRAWN = 4


def random_model(config):
    model = build_model(config, NUM_USERS, NUM_ITEMS).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def share_of(world, events=EVENTS):
    return Share.of(events, NUM_ITEMS, Vocabulary(range(NUM_USERS)), world)


def sampler_of(share):
    return ItemSampler(share.events, np.arange(NUM_ITEMS), NUM_ITEMS, 0.5, share.world)


def first_loss(config, model, share, *, draws=False, shard_items=False, batch_size=8):
    """The objective's value for the first batch, and this batch."""
    model = deepcopy(model)
    candidates = CandidateSampler(share, DRAWN) if draws else None
    shards = ItemShards(model, NUM_ITEMS, share.world) if shard_items else None
    objective = Objective(model, config.loss, sampler_of(share), candidates, shards)
    source, rng = model.graph_source(share.events, NUM_ITEMS), np.random.default_rng(1)
    batch = next(training_batches(share, source, 6, batch_size, rng, config.loss.horizon))
    return objective(batch, np.random.default_rng(2)), batch


class TestSampledSoftmax:
    NUM_ITEMS = 9
    SHARE = Share.of(random_events(num_items=NUM_ITEMS), NUM_ITEMS)

    def test_by_hand(self):
        # Candidates a and b score log 2 and log 3; c, a target too, scores log 5.
        target, log_sum = torch.tensor([2.0, 5.0]).log(), torch.tensor([5.0, 5.0]).log()
        loss = sampled_softmax_loss(target, log_sum, torch.tensor([True, False]))
        assert loss.tolist() == pytest.approx([math.log(5 / 2), math.log((2 + 3 + 5) / 5)])

    def test_gradcheck(self):
        target, log_sum = torch.randn(2, 4, dtype=torch.float64).requires_grad_()
        is_candidate = torch.tensor([True, False, True, False])
        assert torch.autograd.gradcheck(
            lambda *scores: sampled_softmax_loss(*scores, is_candidate), (target, log_sum)
        )

    @pytest.fixture(params=[False, True], ids=["no bias", "bias"])
    def model(self, request):
        """States, vectors of items, biases or None, targets."""
        torch.manual_seed(0)
        x = torch.randn(6, 4, requires_grad=True)
        items = (0.5 * torch.randn(self.NUM_ITEMS, 4)).requires_grad_()
        bias = torch.randn(self.NUM_ITEMS, requires_grad=True) if request.param else None
        target = torch.randint(self.NUM_ITEMS, (6, 2))
        wanted = torch.tensor([[True, True], [True, False]] * 3)
        return x, items, bias, target, wanted

    def objective(self, model, candidates):
        """The loss and its gradient as a function of the seed of its draw."""
        parameters = [each for each in model[:3] if each is not None]

        def value(seed):
            drawn = draw_candidates(candidates, np.random.default_rng(seed))
            result = catalogue_loss(*model, candidates, drawn)
            found = torch.autograd.grad(result, parameters)
            return result.item(), torch.cat([each.flatten() for each in found])

        return value

    def test_exact_where_all_items_are_candidates(self, model):
        all_of_them = CandidateSampler(self.SHARE, 2 * self.NUM_ITEMS)
        assert np.array_equal(all_of_them.draw(np.random.default_rng(0)), np.arange(9))
        drawn, gradient = self.objective(model, all_of_them)(0)
        whole, expected = self.objective(model, None)(0)
        assert drawn == pytest.approx(whole, rel=1e-6)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)

    def test_the_seed_decides_the_draw(self, model):
        value = self.objective(model, CandidateSampler(self.SHARE, 3))
        assert value(5)[0] == value(5)[0]
        assert len({value(seed)[0] for seed in range(5)}) > 1

    def test_more_candidates_are_nearer_to_the_whole_catalogue(self, model):
        _, expected = self.objective(model, None)(0)
        errors = []
        for size in (2, 4, 8):
            value = self.objective(model, CandidateSampler(self.SHARE, size))
            error = [(value(seed)[1] - expected).norm() for seed in range(100)]
            errors.append(torch.stack(error).mean() / expected.norm())
        assert errors[0] > errors[1] > errors[2]


class TestBPR:
    def test_by_hand(self):
        loss = bpr_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([[0.0, 0.0], [0.0, 99.0]]))
        # -log sigmoid(log 3) = log 4/3; -log sigmoid(log 3 - 99) = 99 - log 3 + tiny
        assert loss.tolist() == pytest.approx(
            [math.log(2), (math.log(4 / 3) + 99 - math.log(3)) / 2]
        )

    def test_a_sample_left_out_costs_nothing_and_moves_nothing(self):
        target = torch.tensor([0.3], requires_grad=True)
        others = torch.tensor([[-INF]], requires_grad=True)
        loss = bpr_loss(target, others)
        assert loss.item() == 0
        assert [g.item() for g in torch.autograd.grad(loss, (target, others))] == [0, 0]

    def test_gradcheck(self):
        target = torch.randn(4, dtype=torch.float64, requires_grad=True)
        others = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(bpr_loss, (target, others))

    def test_gradient_raises_the_target(self):
        target = torch.zeros(1, requires_grad=True)
        others = torch.zeros(1, 1, requires_grad=True)
        gradients = torch.autograd.grad(bpr_loss(target, others), (target, others))
        assert [g.item() for g in gradients] == [-0.5, 0.5]


class TestPolarity:
    def test_by_hand(self):
        logit = torch.tensor([[0.0, math.log(3)], [math.log(3), math.log(3)]])
        loss = polarity_loss(logit, torch.tensor([[True, True], [False, True]]))
        expected = [math.log(2) + math.log(4 / 3), math.log(4) + math.log(4 / 3)]
        assert loss.tolist() == pytest.approx(expected)

    def test_large_logits(self):
        loss = polarity_loss(torch.tensor([[1000.0], [1000.0]]), torch.tensor([[True], [False]]))
        assert loss.tolist() == [0, 1000]


class TestSumLoss:
    NUM_ITEMS = 12

    def batch(self, events):
        source = GraphSource(events, self.NUM_ITEMS, feedback_nodes=True, full=False)
        share = Share.of(events, self.NUM_ITEMS)
        (batch,) = half_batches(share, source, 100, np.random.default_rng(0))
        return batch

    def encoder(self):
        torch.manual_seed(0)
        encoder = FeedbackSum(schema(), self.NUM_ITEMS, 3, backend="torch")
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter)
        return encoder

    def test_is_the_mean_over_liked_targets(self):
        batch, encoder = self.batch(random_events(8, self.NUM_ITEMS, 10)), self.encoder()
        found = sum_loss(encoder, batch, None, np.random.default_rng(0))
        states = encoder(batch.graph)[batch.user_node][batch.sequences.row]
        expected = [
            F.cross_entropy(states[row] @ encoder.target.weight.T + encoder.bias, item)
            for row, (items, kinds, exists) in enumerate(
                zip(batch.targets.item, batch.targets.feedback, batch.targets.exists, strict=True)
            )
            for item, kind, is_target in zip(items, kinds, exists, strict=True)
            if is_target and int(kind) in (0, 1)
        ]
        assert len(expected) > 5
        torch.testing.assert_close(found, torch.stack(expected).mean())

    @pytest.mark.parametrize("batch_size", [1, 8])
    @pytest.mark.parametrize("draws", [False, True])
    @pytest.mark.parametrize("shard_items", [False, True])
    def test_parts_of_processes_add_up(self, batch_size, draws, shard_items):
        config = small_config(preset="emorec-graph")
        model = random_model(config)

        def first_loss(world, shard_items=False):
            share, own = share_of(world), deepcopy(model)
            candidates = CandidateSampler(share, DRAWN) if draws else None
            shards = ItemShards(own, NUM_ITEMS, world) if shard_items else None
            source = own.graph_source(share.events, NUM_ITEMS)
            batch = next(half_batches(share, source, batch_size, np.random.default_rng(1)))
            rng = np.random.default_rng(2)
            return sum_loss(own.feedback_sum, batch, candidates, rng, shards)

        parts = together(3, lambda world: first_loss(world, shard_items))
        torch.testing.assert_close(sum(parts), first_loss(ALONE))

    def test_without_a_like_there_is_none(self):
        log = small_log([(0, item, 2 + item % 2, item) for item in range(6)], 1, self.NUM_ITEMS)
        batch = self.batch(EventSequences.build(log))
        assert batch.targets.exists.any()
        assert sum_loss(self.encoder(), batch, None, np.random.default_rng(0)) is None


class TestObjective:
    @pytest.mark.parametrize("targets", RANKED)
    def test_softmax_and_polarity(self, targets):
        config = small_config(f"loss.targets={targets}")
        model = random_model(config)
        found, batch = first_loss(config, model, share_of(ALONE))
        state, taste = model(batch.sequences, batch.graph, batch.user_node, batch.sees_graph)
        item, feedback = batch.targets.item, batch.targets.feedback
        logit = model.polarity.logits(taste, item, feedback)  # of kind 0, 0 or 1, 0 to 2
        ranking, polarity = [], []
        for token, k in batch.targets.exists.nonzero().tolist():
            kind = int(feedback[token, k])
            if kind in RANKED[targets]:
                scores = state[token] @ model.item_vectors.T
                ranking.append(F.cross_entropy(scores, item[token, k]))
            sign = torch.tensor([1 if kind <= level else -1 for level in range(3)])
            polarity.append(-F.logsigmoid(sign * logit[token, k]).sum())
        assert 0 < len(ranking) <= len(polarity)
        torch.testing.assert_close(
            found, sum(ranking) / len(ranking) + sum(polarity) / len(polarity)
        )

    def test_bpr(self):
        config = small_config("loss.ranking=bpr", "model.polarity=none", "model.aversion=0")
        model, share = random_model(config), share_of(ALONE)
        found, batch = first_loss(config, model, share)
        state, _ = model(batch.sequences, batch.graph, batch.user_node, batch.sees_graph)
        token = batch.targets.exists.nonzero()[:, 0]
        user = batch.sequences.user[batch.sequences.row][token].numpy()
        others, valid = sampler_of(share).sample(user, 1, np.random.default_rng(2))
        losses = []
        for own, item, other, is_valid in zip(
            state[token],
            batch.targets.item[batch.targets.exists],
            others[:, 0],
            valid[:, 0],
            strict=True,
        ):
            difference = own @ (model.item_vectors[item] - model.item_vectors[other])
            losses.append(-F.logsigmoid(difference) if is_valid else torch.zeros(()))
        torch.testing.assert_close(found, torch.stack(losses).mean())

    @pytest.mark.parametrize("batch_size", [1, 8])  # one: no user of the batch in most processes
    @pytest.mark.parametrize(
        ("settings", "options"),
        [
            ((), {}),
            ((), {"draws": True}),
            (("loss.ranking=bpr",), {}),
            (("graph.conv=none",), {"shard_items": True}),
            (("graph.conv=none",), {"draws": True, "shard_items": True}),
        ],
    )
    def test_parts_of_processes_add_up(self, settings, options, batch_size):
        config = small_config(*settings)
        model, options = random_model(config), {"batch_size": batch_size, **options}
        parts = together(3, lambda world: first_loss(config, model, share_of(world), **options)[0])
        options.pop("shard_items", None)
        whole, _ = first_loss(config, model, share_of(ALONE), **options)
        torch.testing.assert_close(sum(parts), whole)

    def test_without_a_target_there_is_none(self):
        config = small_config("loss.targets=positive")
        log = small_log([(0, item, 2, item) for item in range(6)], NUM_USERS, NUM_ITEMS)
        share = share_of(ALONE, EventSequences.build(log))
        assert first_loss(config, random_model(config), share)[0] is None
