"""What test_distributed.py starts by torchrun: small trainings, with the loss of every step."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from emorec.building import build_model
from emorec.config import Config
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.processes import ALONE, World, joined
from emorec.training import loop
from tests.small import small_config

LOG = generate(num_users=60, num_items=50, num_topics=8, events_per_user=12).interactions
SPLIT = split_interactions(LOG, n=3)
NO_DROPOUT = "sequence.dropout=0"


def losses_of(
    config: Config, world: World = ALONE, checkpoint: Path | None = None, dropout: bool = False
):
    """The loss of every step, the records and the model."""
    model = build_model(config, SPLIT.train.num_users, SPLIT.train.num_items)
    if not dropout and model.graph_encoder is not None:
        for layer in model.graph_encoder.layers:
            layer.dropout.set(0.0)
    steps: list[float] = []
    step = loop._Loop._step

    def noted(self, loss):
        steps.append(step(self, loss))
        return steps[-1]

    loop._Loop._step = noted
    try:
        records = loop.train(
            model, config, SPLIT.train, SPLIT.valid_targets, checkpoint, progress=False, world=world
        )
    finally:
        loop._Loop._step = step
    return steps, records, model


def main(cases: str, file: str) -> None:
    torch.set_num_threads(1)
    found = {}
    with joined("cpu", 60) as world:
        for name, (preset, settings, *checkpoint) in json.loads(cases).items():
            config = small_config(*settings, preset=preset)
            steps, records, model = losses_of(config, world, *map(Path, checkpoint))
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


if __name__ == "__main__":
    main(*sys.argv[1:])
