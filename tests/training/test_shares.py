"""What each of several processes has of a log, with threads in their place."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emorec.data.graph import GraphSource
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.data.splits import split_interactions
from emorec.data.vocabulary import Vocabulary
from emorec.processes import ALONE, World
from emorec.training.batches import half_batches, training_batches
from emorec.training.candidates import CandidateSampler
from emorec.training.sampling import ItemSampler
from emorec.training.shares import Share, own_rows, own_users, shared_split, summed
from tests.small import small_log
from tests.training.in_threads import together


def repeating_log(num_users=40, num_items=12, num_events=400):
    """Random events, items repeated; every ninth user has none."""
    rng = np.random.default_rng(0)
    user = rng.integers(num_users, size=num_events)
    user = user[user % 9 > 0]
    rows = np.stack(
        [
            user,
            rng.integers(num_items, size=len(user)),
            rng.integers(4, size=len(user)),
            rng.integers(1000, size=len(user)),
        ],
        axis=1,
    )
    return small_log(rows.tolist(), num_users, num_items)


LOG = repeating_log()
EVENTS = EventSequences.build(LOG)
WHOLE = Share.of(EVENTS, LOG.num_items)
sizes = pytest.mark.parametrize("size", [2, 4])


def share_of(world: World) -> Share:
    """A process's share, from the events of its own users."""
    own = own_rows(LOG, own_users(LOG.users, world))
    return Share.of(EventSequences.build(own), LOG.num_items, LOG.users, world)


class TestOwnUsers:
    def test_one_process_has_all(self):
        assert own_users(Vocabulary(["a", 1]), ALONE) is None
        assert own_rows(LOG, None) is LOG

    def test_each_user_is_in_one_process_and_stays_there(self):
        users = Vocabulary([*(f"user-{number}" for number in range(500)), *range(500)])
        shares = np.array([own_users(users, World(rank, 4)) for rank in range(4)])
        assert (shares.sum(0) == 1).all()
        assert shares.sum(1).min() > 200
        later = Vocabulary(["new", *reversed(users.ids)])
        own = own_users(later, World(2, 4))
        assert np.array_equal(own[:0:-1], shares[2])
        # By a hash that is the same in every process, everywhere.
        assert own_users(Vocabulary(["a", "b", "c", 1, 2, 3]), World(0, 2)).tolist() == [
            True, False, True, True, True, False,
        ]  # fmt: skip


@sizes
def test_a_process_has_its_own_events_and_knows_how_many_others_have(size):
    shares = together(size, share_of)
    assert sum(len(share.events.item) for share in shares) == len(LOG)
    for share in shares:
        assert not share.events.lengths[~share.is_own].any()
        assert np.array_equal(share.events.lengths[share.is_own], EVENTS.lengths[share.is_own])
        assert np.array_equal(share.lengths, EVENTS.lengths)
        assert np.array_equal(share.item_counts, np.bincount(LOG.item, minlength=LOG.num_items))
        assert (share.num_events, share.num_items) == (len(LOG), LOG.num_items)


def test_events_of_others_are_left_out():
    shares = together(2, lambda world: Share.of(EVENTS, LOG.num_items, LOG.users, world))
    for share, expected in zip(shares, together(2, share_of), strict=True):
        for column in ("offsets", "item", "feedback", "time"):
            found, right = getattr(share.events, column), getattr(expected.events, column)
            assert np.array_equal(found, right)


@sizes
def test_draws_are_those_of_one_process(size):
    def drawn(share, world=ALONE):
        rng = np.random.default_rng(3)
        candidates = CandidateSampler(share, 7)
        sets = [candidates.draw(rng) for _ in range(50)]
        sampler = ItemSampler(share.events, np.arange(12), 12, 0.5, world)
        users = np.arange(40).repeat(9)
        items, valid = sampler.sample(users, 1, rng)
        is_own = np.ones(40, dtype=bool) if share.is_own is None else share.is_own
        return sets, np.where(is_own[users][:, None], items, -1), valid, candidates.log_probability

    sets, items, valid, log_probability = drawn(WHOLE)
    found = together(size, lambda world: drawn(share_of(world), world))
    for one in found:
        assert all(map(np.array_equal, one[0], sets))
        assert np.array_equal(one[2], valid)
        assert np.array_equal(one[3], log_probability)
    assert np.array_equal(np.max([each[1] for each in found], axis=0), items)


def parts_of_halves(share):
    source = GraphSource(share.events, LOG.num_items, feedback_nodes=True, full=False)
    return list(half_batches(share, source, 5, np.random.default_rng(1)))


def parts_of_windows(share):
    source = GraphSource(share.events, LOG.num_items, feedback_nodes=True, full=False)
    return list(training_batches(share, source, 4, 6, np.random.default_rng(1), 2))


def rows(batch):
    """Each sequence with its user, items, targets and how many events its graph has."""
    found, graph = {}, batch.graph
    in_graph = torch.bincount(
        graph.owner[graph.events.node_by_event], minlength=len(graph.users)
    ).tolist()
    for row, user in enumerate(batch.sequences.user.tolist()):
        tokens = (batch.sequences.row == row).nonzero()[:, 0]
        targets = batch.targets.item[tokens][batch.targets.exists[tokens]].tolist()
        place = batch.targets.place[tokens].tolist()
        items = batch.sequences.item[tokens].tolist()
        found[user, place[0]] = items, place, targets, in_graph[row]
    return found


@sizes
@pytest.mark.parametrize("parts", [parts_of_halves, parts_of_windows])
def test_batches_are_parts_of_those_of_one_process(size, parts):
    whole = parts(WHOLE)
    found = together(size, lambda world: (share := share_of(world), parts(share)))
    for number, batch in enumerate(whole):
        own = [batches[number] for _, batches in found]
        together_have = [row for each in own for row in rows(each).items()]
        assert len(together_have) == len(batch.sequences.user)
        assert dict(together_have) == rows(batch)
        tokens = torch.cat([each.whole.own for each in own])
        assert sorted(tokens.tolist()) == list(range(len(batch.sequences.item)))
        users = batch.sequences.user[batch.sequences.row].numpy()
        for (share, _), each in zip(found, own, strict=True):
            assert share.is_own[each.sequences.user].all()
            assert np.array_equal(each.whole.user, users)


def test_what_is_summed_over_a_batch():
    masks = {}
    batch = parts_of_windows(WHOLE)[0]
    wanted = batch.targets.exists & (batch.targets.feedback < 2)

    def sums(world):
        own = parts_of_windows(share_of(world))[0]
        mask = own.targets.exists & (own.targets.feedback < 2)
        masks[world.rank] = mask
        pairs = own.whole.targets(own.targets.item, mask)
        return own.counts(mask, own.targets.exists), own.whole.spread(mask), pairs

    found = together(3, sums)
    for (_, counts), mask, (token, item) in found:
        assert counts == [int(wanted.sum()), int(batch.targets.exists.sum())]
        assert torch.equal(mask, wanted)
        assert token.tolist() == wanted.nonzero()[:, 0].tolist()
        assert item.tolist() == batch.targets.item[wanted].tolist()
    own = [counts[0] for (counts, _), *_ in found]
    assert own == [int(masks[rank].sum()) for rank in range(3)]
    assert max(own) < wanted.sum() == sum(own)


class TestSplits:
    LOG = repeating_log(num_items=150, num_events=250)  # some items are in no train event
    SPLIT = split_interactions(LOG, "time", quantile=0.8)

    @staticmethod
    def external(log: Interactions):
        """A log's rows by the users' and items' own ids."""
        users, items = log.users.lookup(log.user), log.items.lookup(log.item)
        return list(zip(users, items, log.feedback.tolist(), log.time.tolist(), strict=True))

    @sizes
    @pytest.mark.parametrize("method", ["leave_last_out", "time", "random"])
    def test_each_process_gets_its_own_users_part(self, size, method):
        options = {"n": 1} if method == "leave_last_out" else {"quantile": 0.8}
        split = split_interactions(self.LOG, method, **options)
        found = together(size, lambda w: shared_split(split if w.is_first else None, w))
        assert found[0] is split
        assert len(split.valid) > len(split.valid_targets)
        for rank, own in enumerate(found[1:], 1):
            is_own = own_users(split.train.users, World(rank, size))
            assert own.train.users == split.train.users and own.train.items == split.train.items
            assert own.train.time_unit == split.train.time_unit
            for name in ("train", "valid", "valid_targets", "history"):
                expected = own_rows(getattr(split, name), is_own)
                assert self.external(getattr(own, name)) == self.external(expected)
            assert len(own.test) == 0

    def test_one_process_has_all(self):
        assert shared_split(self.SPLIT, ALONE) is self.SPLIT

    def test_a_process_may_have_no_user(self):
        everybody = Vocabulary(
            [id for id in range(400) if own_users(Vocabulary([id]), World(0, 2))]
        )
        users = Vocabulary(everybody.ids[: self.SPLIT.train.num_users])
        logs = [replace(each, users=users) for each in (self.SPLIT.train, self.SPLIT.valid)]
        split = replace(self.SPLIT, train=logs[0], valid=logs[1])
        _, own = together(2, lambda w: shared_split(split if w.is_first else None, w))
        assert len(own.train) == len(own.valid) == len(own.valid_targets) == 0
        assert own.train.num_users == self.SPLIT.train.num_users


def test_sums_of_arrays():
    found = together(3, lambda world: summed(world, np.array([1, world.rank])))
    assert [each.tolist() for each in found] == [[3, 3]] * 3
    values = np.ones(2)
    assert summed(ALONE, values) is values
