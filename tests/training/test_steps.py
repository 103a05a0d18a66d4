"""What each epoch and step of training draws, and what enters its loss."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from emorec.building import build_model
from emorec.data.feedback import Feedback
from emorec.training import loop as training
from emorec.training import losses, parts, validation
from emorec.training.loop import train
from emorec.training.sampling import ItemSampler
from tests.small import small_config, small_log

# Ten users and twelve items, of which the last two have no event.
ROWS = [
    (user, (3 * user + step) % 10, (user + step) % 4, 100 * step)
    for user in range(10)
    for step in range(6)
]
LOG = small_log(ROWS, 10, 12)
IS_POSITIVE = LOG.feedback <= Feedback.IMPLICIT_POSITIVE
NOTHING = LOG.select(np.zeros(0, dtype=np.int64))
BPR = "emo-sage-thp"  # its targets are positive events


def run(config, log=LOG, valid=NOTHING):
    model = build_model(config, log.num_users, log.num_items)
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    records = train(model, config, log, valid, progress=False)
    end = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    return start, end, records


def spy(monkeypatch, owner, name, note):
    """Calls ``note(result, *arguments)`` whenever a function was called."""
    function = getattr(owner, name)

    def noted(*arguments, **options):
        result = function(*arguments, **options)
        note(result, *arguments)
        return result

    monkeypatch.setattr(owner, name, noted)


def test_each_epoch_has_an_order_moments_and_dropout_of_its_own(monkeypatch):
    epochs, seeds = [], []

    def note(batches, *_):
        epochs.append(batches)

    made = parts.training_batches
    monkeypatch.setattr(parts, "training_batches", lambda *a: note(list(made(*a))) or epochs[-1])
    spy(monkeypatch, training._Loop, "_step", lambda *_: seeds.append(torch.initial_seed()))
    run(small_config("training.epochs=2", "training.batch_size=2", "sequence.max_length=3"))
    orders = [[batch.sequences.user.tolist() for batch in batches] for batches in epochs]
    assert len(orders) == 2 and orders[0] != orders[1]
    seen = [
        Counter(
            (user, place)
            for batch in batches
            for user, place in zip(
                batch.sequences.user[batch.sequences.row][batch.sees_graph].tolist(),
                batch.targets.place[batch.sees_graph].tolist(),
                strict=True,
            )
        )
        for batches in epochs
    ]
    assert seen[0] != seen[1]
    assert len(set(seeds)) == 2 and len(seeds) == 2 * len(orders[0])  # of dropout


class TestSamples:
    def draws(self, monkeypatch, *settings):
        """Arguments and results of each step's call of the sampler."""
        found = []
        state = []

        def note(result, _, user, size, rng):
            found.append((user, *result))
            state.append(rng.bit_generator.state["state"]["state"])

        spy(monkeypatch, ItemSampler, "sample", note)
        run(small_config("training.epochs=1", "training.batch_size=2", *settings, preset=BPR))
        assert len(set(state)) == len(state) > 1  # each step draws again
        return found

    def test_are_for_the_users_of_the_targets(self, monkeypatch):
        users = np.concatenate([user for user, _, _ in self.draws(monkeypatch)])
        assert Counter(users.tolist()) == Counter(LOG.user[IS_POSITIVE].tolist())

    def test_are_items_of_the_log_that_the_user_has_not_seen(self, monkeypatch):
        seen = set(zip(LOG.user.tolist(), LOG.item.tolist(), strict=True))
        for users, items, valid in self.draws(monkeypatch, "loss.use_negatives=0"):
            assert items.max() < 10
            for user, row, good in zip(users, items, valid, strict=True):
                assert not {(user, item) for item in row[good]} & seen


def test_samples_of_users_who_have_seen_everything_teach_nothing():
    everything = small_log([(u, i, 0, i) for u in range(4) for i in range(5)], 4, 5)
    settings = ("loss.use_negatives=0", "model.polarity=none")
    start, end, records = run(small_config(*settings, preset=BPR), everything)
    assert [record.loss for record in records] == [0.0, 0.0]
    assert torch.equal(start, end)


def test_a_model_of_the_graph_alone_learns_from_what_the_graph_is_older_than(monkeypatch):
    wanted, learned = [], []

    def noted(*arguments):
        for batch in made(*arguments):
            wanted.append(int((batch.sees_graph[:, None] & batch.targets.exists).sum()))
            yield batch

    made = parts.training_batches
    monkeypatch.setattr(parts, "training_batches", noted)
    spy(monkeypatch, losses, "bpr_loss", lambda _, target, __: learned.append(len(target)))
    run(small_config("training.epochs=1", preset="base-gat"))
    assert 0 < sum(wanted) < len(LOG)
    assert sum(learned) == sum(wanted)


def test_the_polarity_is_learned_from_events_that_are_no_targets_too(monkeypatch):
    rows = []

    def note(grad):
        rows.append(int(grad.any(-1).sum()))

    spy(monkeypatch, losses, "polarity_loss", lambda _, logit, __: logit.register_hook(note))
    config = small_config("loss.targets=positive", "loss.horizon=1", "training.epochs=1")
    run(config)
    assert sum(rows) == len(LOG) > IS_POSITIVE.sum()


def test_gradients_are_clipped(monkeypatch):
    def moved():
        settings = ("training.averaging=0", "loss.polarity_decay=0", "training.epochs=1")
        start, end, _ = run(small_config(*settings))
        return float((end - start).norm() / start.norm())

    free = moved()
    # To nothing, beside the optimizer's epsilon; nor do weights decay.
    monkeypatch.setattr(training, "_LARGEST_GRADIENT", 1e-12)
    assert moved() < 1e-3 * free


def test_validation_ranks_the_items_of_the_log_alone(monkeypatch):
    candidates = []
    spy(monkeypatch, validation, "recommend_top_k", lambda _, *a: candidates.append(a[4].tolist()))
    run(small_config("training.epochs=1"), LOG, small_log([(0, 11, 0, 900)], 10, 12))
    assert candidates == [[True] * 10 + [False] * 2]


@pytest.mark.parametrize(
    ("setting", "per_item", "expected"),
    [(0.0, 9, 0.0), (0.3, 9, 0.3), (-1.0, 9, 0.75), (-1.0, 128, 0.5), (-1.0, 256, 0.25)],
)
def test_the_weight_decay_of_the_polarity_falls_with_events_per_item(setting, per_item, expected):
    counts = np.array([per_item, 0, per_item, 0, 0])  # items without events do not count
    assert parts.polarity_decay(setting, counts) == pytest.approx(expected)
