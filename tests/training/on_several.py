"""What test_distributed.py starts by torchrun: small trainings, with the loss of every step.

The first process has the log and sends the others their users' part, as of a prepared log.
"""

from __future__ import annotations

import gc
import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from emorec.building import build_model
from emorec.config import Config
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.data.splits import Split, split_interactions
from emorec.data.synthetic import generate
from emorec.data.vocabulary import Vocabulary
from emorec.processes import ALONE, World, joined
from emorec.training import loop
from emorec.training.shares import own_users, shared_split
from tests.small import small_config

LOG = generate(num_users=60, num_items=50, num_topics=8, events_per_user=12).interactions
SPLIT = split_interactions(LOG, n=3)
NO_DROPOUT = "sequence.dropout=0"
ALL_IN_FIRST = "all users in the first"


def losses_of(
    config: Config,
    world: World = ALONE,
    checkpoint: Path | None = None,
    dropout: bool = False,
    split: Split = SPLIT,
):
    """The loss of every step, the records and the model."""
    model = build_model(config, split.train.num_users, split.train.num_items)
    if not dropout and model.graph_encoder is not None:
        for layer in model.graph_encoder.layers:
            layer.dropout.set(0.0)
    steps: list[float] = []
    step = loop._Loop._step

    def noted(self, loss):
        if not steps and not world.is_first:
            assert_no_others(split.train.users, world)
        value = step(self, loss)
        steps.append(value.item())
        return value

    loop._Loop._step = noted
    try:
        records = loop.train(
            model, config, split.train, split.valid_targets, checkpoint, progress=False, world=world
        )
    finally:
        loop._Loop._step = step
    return steps, records, model


def assert_no_others(users: Vocabulary, world: World) -> None:
    """Checks that no log and no sequences of this process hold events of other users."""
    gc.collect()
    held = [each for each in gc.get_objects() if type(each) in (Interactions, EventSequences)]
    assert held
    for each in held:
        if type(each) is Interactions:
            assert own_users(each.users, world)[each.user].all(), each
        else:
            assert own_users(users, world)[each.lengths > 0].all(), each


def all_in_first(split: Split) -> Split:
    """The same split with users who all belong to the first of 2 or 4 processes."""
    is_first = own_users(Vocabulary(range(1000)), World(0, 4))
    users = Vocabulary(np.flatnonzero(is_first)[: split.train.num_users])
    train, valid, test = (
        replace(each, users=users) for each in (split.train, split.valid, split.test)
    )
    return Split(train, valid, test)


def threads() -> list[str]:
    """Names of this process's threads, on Linux."""
    names = []
    for each in Path("/proc/self/task").glob("*"):
        with suppress(OSError):  # one that has just ended
            names.append((each / "comm").read_text())
    return names


def main(cases: str, file: str) -> None:
    torch.set_num_threads(1)
    found = {}
    with joined("cpu", 60) as world:
        splits = [SPLIT, all_in_first(SPLIT)]
        if not world.is_first:
            del globals()["LOG"], globals()["SPLIT"], losses_of.__defaults__
            splits = [None, None]
        splits = [shared_split(each, world) for each in splits]
        for name, (preset, settings, *checkpoint) in json.loads(cases).items():
            config = small_config(*settings, preset=preset)
            file_of_case = Path(*checkpoint) if checkpoint else None
            split = splits[name.endswith(ALL_IN_FIRST)]
            steps, records, model = losses_of(config, world, file_of_case, False, split)
            about = [*steps, *(each for r in records for each in r.valid.values())]
            parts = world.gather(torch.tensor(about, dtype=torch.float64))
            assert all(torch.equal(part, parts[0]) for part in parts), name
            for key, value in model.state_dict().items():
                assert all(torch.equal(each[0], value) for each in world.gather(value[None])), (
                    name,
                    key,
                )
            found[name] = {
                "losses": steps,
                "valid": [record.valid for record in records],
                "bytes": world.bytes_sent,
            }
        if world.is_first:
            Path(file).write_text(json.dumps(found))
    assert not any("gloo" in name for name in threads())  # one may abort Python at its end


if __name__ == "__main__":
    main(*sys.argv[1:])
