from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from emorec.data.feedback import Feedback
from emorec.data.sequences import CLS, EventSequences
from emorec.training.batches import (
    GraphSource,
    half_batches,
    num_batches,
    training_batches,
)
from emorec.training.shares import Share
from tests.small import random_events, small_log

NUM_USERS, NUM_ITEMS, MAX_LENGTH, BATCH_SIZE = 23, 50, 4, 3
EVENTS = random_events(NUM_USERS, NUM_ITEMS, most_events=15)
SHARE = Share.of(EVENTS, NUM_ITEMS)
SOURCES = [(True, False), (True, True), (False, False), (False, True)]


def epoch(source=None, seed=0, max_length=MAX_LENGTH, batch_size=BATCH_SIZE):
    rng = np.random.default_rng(seed)
    return list(training_batches(SHARE, source, max_length, batch_size, rng))


def make_source(feedback_nodes, full):
    return GraphSource(EVENTS, NUM_ITEMS, feedback_nodes=feedback_nodes, full=full)


def graph_events(graph, node):
    """Item, kind and time of the events that reach a user node, as a multiset."""
    found = Counter()
    for (source, _, target), (items, ends) in graph.edges.items():
        if source != "item":
            continue
        owner = graph.node_user[target][ends]
        kind = None if target == "user" else Feedback.from_label(target)
        times = graph.time[source, _, target]
        for row in (owner == node).nonzero()[:, 0].tolist():
            found[items[row].item(), kind, times[row].item()] += 1
    return found


def oldest(user, count, with_kind):
    rows = range(EVENTS.offsets[user], EVENTS.offsets[user] + count)
    return Counter(
        (
            int(EVENTS.item[r]),
            Feedback(EVENTS.feedback[r]) if with_kind else None,
            int(EVENTS.time[r]),
        )
        for r in rows
    )


@pytest.mark.parametrize("source", [None, *(make_source(*options) for options in SOURCES)])
@pytest.mark.parametrize(("max_length", "batch_size"), [(4, 3), (1, 1), (100, 100)])
def test_every_event_is_a_target_once(source, max_length, batch_size):
    batches = epoch(source, max_length=max_length, batch_size=batch_size)
    assert len(batches) == num_batches(EVENTS.lengths, max_length, batch_size)
    rows = []
    for batch in batches:
        assert len(batch.sequences.user) <= batch_size
        user = batch.sequences.user[batch.sequences.row].numpy()
        rows += (EVENTS.offsets[user] + batch.targets.place.numpy()).tolist()
    assert sorted(rows) == list(range(len(EVENTS.item)))


@pytest.mark.parametrize(("feedback_nodes", "full"), SOURCES)
@pytest.mark.parametrize("seed", range(5))
def test_targets_that_see_the_graph_are_never_in_it(feedback_nodes, full, seed):
    num_seeing = 0
    known = {}
    for batch in epoch(make_source(feedback_nodes, full), seed):
        graph, sequences = batch.graph, batch.sequences
        for b, (user, node) in enumerate(
            zip(sequences.user.tolist(), batch.user_node.tolist(), strict=True)
        ):
            assert graph.users[node] == user
            found = graph_events(graph, node)
            count = found.total()
            # The graph knows exactly the oldest events ...
            assert found == oldest(user, count, with_kind=feedback_nodes)
            # ... and only targets from there on look at it.
            tokens = sequences.row == b
            sees, place = batch.sees_graph[tokens], batch.targets.place[tokens]
            if sees.any():
                assert torch.equal(sees, place >= count)
                assert known.setdefault(user, count) == count  # one cutoff per user and epoch
                num_seeing += int(sees.sum())
            elif not full:
                assert count == 0  # nothing looks at it
    assert num_seeing > 0.2 * len(EVENTS.item)


def test_moments_are_spread_over_histories_and_differ_between_epochs():
    shares = []
    for seed in range(30):
        batches = epoch(make_source(True, False), seed)
        shares.append(float(torch.cat([batch.sees_graph for batch in batches]).float().mean()))
    # Uniform moments leave half of the targets after them.
    assert np.mean(shares) == pytest.approx(0.55, abs=0.1)
    assert np.std(shares) > 0.01


def test_first_events_may_see_an_empty_graph():
    lengths = EVENTS.lengths
    for batch in epoch(make_source(True, False)):
        alone = torch.from_numpy(lengths)[batch.sequences.user] == 1
        assert batch.sees_graph[alone[batch.sequences.row]].all()


def test_the_generator_decides():
    def flat(seed):
        batches = epoch(make_source(True, False), seed)
        return [
            tensor
            for batch in batches
            for tensor in (
                *vars(batch.sequences).values(),
                *vars(batch.targets).values(),
                batch.sees_graph,
                *(end for ends in batch.graph.edges.values() for end in ends),
            )
        ]

    assert all(torch.equal(a, b) for a, b in zip(flat(1), flat(1), strict=True))
    one, other = epoch(seed=1), epoch(seed=2)
    order = [torch.cat([batch.sequences.user for batch in batches]) for batches in (one, other)]
    assert not torch.equal(*order)


def test_without_a_graph_nothing_is_made():
    for batch in epoch():
        assert batch.graph is None
        assert batch.user_node is None
        assert batch.sees_graph is None


def test_counts_of_masks():
    batch = epoch()[0]
    here, everywhere = batch.counts(torch.tensor([True, False, True]), torch.tensor([False]))
    assert here == everywhere == [2, 0]


def test_as_many_targets_as_asked_for():
    def widths(*horizon):
        batches = training_batches(SHARE, None, 4, 3, np.random.default_rng(0), *horizon)
        return {batch.targets.item.shape[1] for batch in batches}

    assert (widths(), widths(3)) == ({1}, {3})


def test_moves_to_a_device(device):
    batch = epoch(make_source(True, False))[0].to(device)
    assert batch.sees_graph.device.type == batch.graph.users.device.type == device.type
    bare = epoch()[0].to(device)
    assert bare.graph is None
    assert bare.targets.item.device.type == device.type


def windows_of(batch):
    """User and last place of each of a batch's windows."""
    users, place = batch.sequences.user.tolist(), batch.targets.place.tolist()
    return frozenset(
        zip(users, (place[last] for last in batch.sequences.last.tolist()), strict=True)
    )


class TestLengths:
    """Forty users with 1 to 40 events: every window has a length of its own."""

    EVENTS = EventSequences.build(
        small_log([(u, i % 9, 0, i) for u in range(40) for i in range(u + 1)], 40, 9)
    )

    def epoch(self, seed=0, batch_size=2):
        rng = np.random.default_rng(seed)
        return list(training_batches(Share.of(self.EVENTS, 9), None, 100, batch_size, rng))

    def lengths(self, batches):
        return [np.bincount(batch.sequences.row.numpy()) for batch in batches]

    def test_similar_ones_share_a_batch(self):
        # Two at random of forty are 14 apart; neighbours among sixteen at random are 2.4 apart.
        apart = [np.ptp(each) for seed in range(5) for each in self.lengths(self.epoch(seed))]
        assert np.mean(apart) < 5

    def test_equal_ones_are_together_at_random(self):
        # Two windows per user; half of the pairs should be an older one and a newer one.
        log = small_log([(u, 0, 0, i) for u in range(80) for i in range(20)], 80, 1)
        share = Share.of(EventSequences.build(log), 1)
        batches = training_batches(share, None, 10, 2, np.random.default_rng(0))
        newest = [batch.targets.place[batch.sequences.last].tolist() for batch in batches]
        assert len(newest) == 80
        assert np.mean([one != other for one, other in newest]) == pytest.approx(0.5, abs=0.15)

    def test_batches_do_not_come_by_length(self):
        means = [each.mean() for each in self.lengths(self.epoch())]
        assert abs(np.corrcoef(means[:8], np.arange(8))[0, 1]) < 0.9  # the first group alone
        steps = np.diff(means)
        assert (steps > 0).any() and (steps < 0).sum() > 4

    def test_other_epochs_put_others_together(self):
        one, other = ({windows_of(batch) for batch in self.epoch(seed)} for seed in (1, 2))
        assert len(one & other) < len(one) / 2


class TestHalves:
    def epoch(self, source=None, seed=0, batch_size=BATCH_SIZE, events=EVENTS):
        source = source or GraphSource(events, NUM_ITEMS, feedback_nodes=True, full=False)
        share = Share.of(events, NUM_ITEMS)
        return list(half_batches(share, source, batch_size, np.random.default_rng(seed)))

    def sides(self, events, seed=0):
        """Each user's known and asked items, over the batches of an epoch."""
        source = GraphSource(events, NUM_ITEMS, feedback_nodes=False, full=False)
        found = {}
        for batch in self.epoch(source, seed, events=events):
            items, nodes = batch.graph.edges["item", "interacts", "user"]
            for row, user in enumerate(batch.sequences.user.tolist()):
                known = items[nodes == batch.user_node[row]].tolist()
                asked = batch.targets.item[row][batch.targets.exists[row]].tolist()
                assert user not in found  # every user once
                found[user] = known, asked
        return found

    def test_each_event_is_known_or_asked(self):
        for user, (known, asked) in self.sides(EVENTS).items():
            own = EVENTS.item[EVENTS.offsets[user] : EVENTS.offsets[user + 1]]
            assert sorted(known + asked) == sorted(own.tolist())
            assert asked

    def test_no_target_is_known(self):
        # Repeats of an item, which random histories have, stay together.
        for seed in range(5):
            assert all(
                not set(known) & set(asked) for known, asked in self.sides(EVENTS, seed).values()
            )

    def test_about_half_is_asked(self):
        events = EventSequences.build(
            small_log([(u, i, 0, i) for u in range(40) for i in range(50)], 40, 50)
        )
        asked = sum(len(each) for _, each in self.sides(events).values())
        assert abs(asked / 2000 - 0.5) < 0.05

    def test_other_epochs_draw_other_halves(self):
        assert self.sides(EVENTS, 1) == self.sides(EVENTS, 1) != self.sides(EVENTS, 2)

    def test_kinds_of_feedback_go_with_their_items(self):
        for batch in self.epoch():
            for row, user in enumerate(batch.sequences.user.tolist()):
                exists = batch.targets.exists[row]
                asked = Counter(
                    zip(
                        batch.targets.item[row][exists].tolist(),
                        batch.targets.feedback[row][exists].tolist(),
                        strict=True,
                    )
                )
                known = Counter()
                for (item, kind, _), count in graph_events(
                    batch.graph, batch.user_node[row]
                ).items():
                    known[item, int(kind)] += count
                rows = slice(EVENTS.offsets[user], EVENTS.offsets[user + 1])
                own = zip(EVENTS.item[rows].tolist(), EVENTS.feedback[rows].tolist(), strict=True)
                assert known + asked == Counter(own)

    def test_a_full_graph_holds_the_same_halves(self):
        small = self.epoch(make_source(True, full=False))
        full = self.epoch(make_source(True, full=True))
        for one, other in zip(small, full, strict=True):
            assert torch.equal(one.targets.item, other.targets.item)
            assert torch.equal(other.user_node, other.sequences.user)
            for a, b in zip(one.user_node.tolist(), other.user_node.tolist(), strict=True):
                assert graph_events(one.graph, a) == graph_events(other.graph, b)

    def test_inputs_hold_no_event(self):
        assert all((batch.sequences.item == CLS).all() for batch in self.epoch())
