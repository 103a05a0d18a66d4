"""A whole training: validation chooses the epochs, then learning goes on with its events."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emorec.config import Config
from emorec.data.splits import Split
from emorec.nn.model import Recommender
from emorec.processes import ALONE, World
from emorec.training.checkpoint import EpochRecord
from emorec.training.loop import train
from emorec.training.parts import chosen_epochs, with_chosen_horizon

__all__ = ["fit_model"]


def fit_model(
    model: Recommender,
    config: Config,
    split: Split,
    checkpoint: Path | None = None,
    on_epoch: Callable[[list[EpochRecord]], None] = lambda records: None,
    progress: bool = True,
    start: Callable[[Recommender], None] | None = None,
    world: World = ALONE,
) -> list[EpochRecord]:
    """Trains a model in place on a split's train events and, with ``training.refit``, again.

    The validation events choose the epoch of each part. Then training continues from there on
    train and validation events together, for a share of as many epochs, because the newest events
    predict the next ones best. The learning rate falls to 0 until then.

    Args:
        model: The model.
        config: The run.
        split: The train split is learned from, the validation split chooses, if it has events. Of
            several processes, each needs the events of its own users, see
            `emorec.training.shares`, and the first one those of all.
        checkpoint: File to write after each epoch, and to resume from if it exists. Refitting
            writes one of its own beside it.
        on_epoch: Called after each epoch with all records so far.
        progress: Whether to show a progress bar.
        start: Initialises the model; see `emorec.training.loop.train`.
        world: The processes that train.

    Returns:
        A record per epoch.

    Raises:
        TrainingError: If the loss is not finite, or there is no target.
        FileError: If the checkpoint is of another model, other data or other settings.
    """
    valid = split.valid_targets
    config = with_chosen_horizon(config, valid, world)
    records = train(
        model, config, split.train, valid, checkpoint, on_epoch, progress, start=start, world=world
    )
    chosen = chosen_epochs(config, records)  # none without validation events
    if not config.training.refit or not chosen:
        return records
    names = "-".join(str(epoch) for epoch in chosen.values())
    again = train(
        model,
        config,
        split.history,
        valid.select(np.zeros(0, dtype=np.int64)),
        checkpoint and checkpoint.with_stem(f"{checkpoint.stem}-refit-{names}"),
        lambda later: on_epoch(records + later),
        progress,
        again={  # rounded first: 1.1 * 50 is 55, and not 56
            part: math.ceil(round(config.training.refit * epoch, 6))
            for part, epoch in chosen.items()
        },
        world=world,
    )
    return records + again
