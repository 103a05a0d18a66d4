"""Training: part by part, epochs over batches, validation, checkpoints, early stopping."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from emorec.config import Config
from emorec.data.interactions import Interactions
from emorec.data.prepared import part_of
from emorec.data.sequences import EventSequences
from emorec.memory import keep_freed_memory
from emorec.nn.model import Recommender
from emorec.processes import ALONE, World
from emorec.storage.files import FileError
from emorec.training.checkpoint import GRAPH, EpochRecord, Progress
from emorec.training.distributed import clip_gradients, require_shareable, sum_gradients
from emorec.training.parts import Part, parts_of, selected_score, with_chosen_horizon
from emorec.training.sharding import ItemShards
from emorec.training.shares import own_rows, own_users, summed
from emorec.training.start import count, start_from_log
from emorec.training.tuning import tune_decay, tune_ranking
from emorec.training.validation import TrainingError, Validation, diverged

__all__ = ["MOST_EPOCHS", "TrainingError", "most_epochs", "train"]

MOST_EPOCHS = 10_000
"""Limit of epochs where validation ends training; it is not reached in practice."""

_EPOCHS_WITHOUT_VALIDATION = 20
_LARGEST_GRADIENT = 1.0  # norm that gradients are clipped to
# Epochs of a small log are a few steps; a few of them without a gain are noise.
_STEPS_OF_PATIENCE = 100


def train(
    model: Recommender,
    config: Config,
    fit: Interactions,
    valid: Interactions,
    checkpoint: Path | None = None,
    on_epoch: Callable[[list[EpochRecord]], None] = lambda records: None,
    progress: bool = True,
    again: Mapping[str, int] | None = None,
    start: Callable[[Recommender], None] | None = None,
    world: World = ALONE,
) -> list[EpochRecord]:
    """Trains a model in place and leaves each part at its best epoch on validation.

    The feedback sum is trained first, then the encoders, see `emorec.training.parts`. Validation
    also chooses the weights of the ranking's terms.

    All randomness of an epoch comes from the seed and the epoch's number, so a run that was
    killed and resumed from its checkpoint gives the same result as an undisturbed one.

    Args:
        model: The model.
        config: The run.
        fit: The events to train on: in the first process those of all users, in others at least
            those of their own.
        valid: Targets that choose the epoch, likewise; if empty, the last epoch is taken.
        checkpoint: File to write after each epoch, and to resume from if it exists. The feedback
            sum has one of its own beside it.
        on_epoch: Called after each epoch with all records so far.
        progress: Whether to show a progress bar.
        again: For a model that is trained already: the number of epochs of each part. The learning
            rate falls to 0 over them, in a straight line.
        start: Initialises the model with parameters that are trained already, of which the first
            epoch has to be better on validation; None: as the configuration says, see
            `start_from_log`. That of the first process counts.
        world: The processes that train; the first one counts, writes and reports.

    Returns:
        A record per epoch.

    Raises:
        TrainingError: If the loss is not finite, or there is no target.
        FileError: If the checkpoint is of another model, other data or other settings.
        ConfigError: If several processes cannot train such a model.
        ValueError: If other processes have other settings or data.
    """
    keep_freed_memory()
    config = with_chosen_horizon(config, valid, world)
    model.to(config.training.device)
    require_shareable(model, world)
    world.require_same({"settings": _settings(config, again)})
    _require_same_logs(world, fit, valid)
    started = ""
    if world.is_first:
        if again is None and start is not None:
            start(model)
        elif again is None:
            start_from_log(model, fit, config.model.start == "log")
        count(model, fit, progress)
    world.copy_first([*model.parameters(), *model.buffers()])
    if again is None and world.first_says("" if start is None else "started"):
        started = _digest(model)
    shards = ItemShards(model, fit.num_items, world) if config.training.shard_items else None
    is_own = own_users(fit.users, world)
    own, targets = own_rows(fit, is_own), own_rows(valid, is_own)
    is_validated = bool(summed(world, np.array([len(targets)])))
    events = EventSequences.build(own)
    records: list[EpochRecord] = []
    for part in parts_of(model, config, events, own, world, shards):
        is_graph = part.name == GRAPH
        validation = None
        if is_validated:
            validation = Validation(model, config, own, events, targets, is_graph, world)
        file = checkpoint
        if checkpoint is not None and is_graph:
            file = checkpoint.with_stem(f"{checkpoint.stem}-{GRAPH}")
        loop = _Loop(
            model,
            config,
            part,
            validation,
            identity=world.first_says(_identity(config, part.name, fit, valid, again)) + started,
            checkpoint=file,
            epochs=most_epochs(config, is_validated) if again is None else again[part.name],
            is_trained=bool(started),
            anneal=again is not None,
            progress=progress,
            world=world,
            shards=shards,
        )
        records = loop.run(records, on_epoch)
        if validation is not None and is_graph and model.feedback_sum is not None:
            with shards.whole() if shards else nullcontext():
                tune_decay(model.feedback_sum, validation, selected_score(config, GRAPH))
    if shards is not None:
        shards.join()
    if is_validated:
        validation = Validation(model, config, own, events, targets, world=world)
        tune_ranking(model, config, validation, progress)
    return records


def most_epochs(config: Config, is_validated: bool) -> int:
    """How many epochs training may take; see ``training.epochs``."""
    return config.training.epochs or (MOST_EPOCHS if is_validated else _EPOCHS_WITHOUT_VALIDATION)


@dataclass
class _Loop:
    """Trains one part until validation stops improving, or for a number of epochs.

    Attributes:
        model: The model.
        config: The run.
        part: What is trained.
        validation: Chooses the epoch; None: the last one is taken.
        identity: What is trained, on what; a checkpoint must have the same.
        checkpoint: File to write after each epoch, and to resume from if it exists.
        epochs: At most.
        is_trained: Whether the model is trained before the first epoch, which then has to be better
            than none.
        anneal: Whether the learning rate falls to 0.
        progress: Whether to show progress bars.
        world: The processes that train.
        shards: Item vectors that are divided over them, or None.
    """

    model: Recommender
    config: Config
    part: Part
    validation: Validation | None
    identity: str
    checkpoint: Path | None
    epochs: int
    is_trained: bool
    anneal: bool
    progress: bool
    world: World
    shards: ItemShards | None

    def run(
        self, earlier: list[EpochRecord], on_epoch: Callable[[list[EpochRecord]], None]
    ) -> list[EpochRecord]:
        """Trains, and returns the records of earlier parts and of this one."""
        part, model, checkpoint = self.part, self.model, self.checkpoint
        state = Progress.fresh(model, self.identity)
        if checkpoint is not None and self._is_resumed(checkpoint):
            state = Progress.load(
                checkpoint, model, self.identity, part.optimizer, part.average, self.shards
            )
        elif self.is_trained and self.validation:
            state.best_score = self._validated()[selected_score(self.config, part.name)]
        if state.epoch > self.epochs:
            warnings.warn(
                f"{checkpoint} has {state.epoch} epochs, more than training.epochs "
                f"({self.epochs}): none is added",
                stacklevel=3,
            )
        select = selected_score(self.config, part.name)
        enough = math.ceil(_STEPS_OF_PATIENCE / part.steps_per_epoch)
        patience = max(self.config.training.patience, enough)
        while state.epoch < self.epochs and state.epochs_without_gain < patience:
            started = time.perf_counter()
            loss = self._run_epoch(state.epoch + 1)
            with part.average.applied() if part.average else nullcontext():
                scores = self._validated()
                seconds = time.perf_counter() - started
                record = EpochRecord(state.epoch + 1, loss, seconds, scores, part.name)
                score = scores[select] if scores else float(record.epoch)
                if math.isnan(score):
                    raise TrainingError(
                        f"the epoch is chosen by {select!r}, but no validation event is liked; "
                        "choose by evaluation.select 'ndcg', without graph.conv 'sum'"
                    )
                state.advance(record, score, model)
            if checkpoint is not None and (self.world.is_first or self.shards):
                state.save(checkpoint, model, part.optimizer, part.average, self.shards)
            if self.world.is_first:
                on_epoch(earlier + state.records)
        model.load_state_dict(state.best)
        return earlier + state.records

    def _is_resumed(self, checkpoint: Path) -> bool:
        """Whether the first process has a checkpoint, which all read."""
        world = self.world
        is_there = checkpoint.exists()
        if world.first_says(str(is_there)) != "True":
            return False
        if not is_there:
            raise FileError(
                f"process {world.rank} of {world.size} does not see {checkpoint}, from which the "
                "first one resumes; the run folder must be on a disk that all of them see, under "
                "the same name"
            )
        return True

    def _validated(self) -> dict[str, float]:
        with self.shards.whole() if self.shards else nullcontext():
            return self.validation() if self.validation else {}

    def _run_epoch(self, epoch: int) -> float:
        """One pass over all targets; the mean loss of its steps."""
        part, options = self.part, self.config.training
        rng = np.random.default_rng([options.seed, epoch])
        device, losses = torch.device(options.device), _Losses(epoch, self.config)
        name = f"{GRAPH} epoch" if part.name == GRAPH else "epoch"
        bar = tqdm(
            part.batches(rng),
            total=part.steps_per_epoch,
            desc=f"{name} {epoch}" + (f"/{self.epochs}" if self.epochs < MOST_EPOCHS else ""),
            unit="batch",
            leave=False,
            disable=not self.progress,
        )
        self.model.train()
        is_mixed = options.precision == "bfloat16"
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=is_mixed)
        with torch.random.fork_rng():  # dropout
            # Each process has masks of its own, for users of its own.
            torch.manual_seed((int(rng.integers(2**63)) + self.world.rank) % 2**63)
            for number, batch in enumerate(bar):
                if self.anneal:
                    done = (epoch - 1 + number / part.steps_per_epoch) / self.epochs
                    for group in part.optimizer.param_groups:
                        group["lr"] = part.learning_rate * (1 - done)
                if losses.finish():
                    bar.set_postfix(loss=f"{losses.mean:.4f}")
                with autocast:
                    loss = part.loss(batch.to(device), rng)
                if loss is not None:
                    losses.add(self._step(loss))
        if not losses.finish():
            raise TrainingError(part.no_target)
        return losses.mean

    def _step(self, loss: Tensor) -> Tensor:
        """Updates the parameters; returns the loss, of all processes."""
        part = self.part
        part.optimizer.zero_grad(set_to_none=True)
        if loss.requires_grad:  # not without a target of the process's own users
            loss.backward()
        value = sum_gradients(self.world, part.parameters(), loss, self.shards)
        clip_gradients(part.parameters(), _LARGEST_GRADIENT, self.shards)
        part.optimizer.step()
        if part.average is not None:
            part.average.update()
        return value


class _Losses:
    """The mean loss of an epoch.

    A loss is read while the next batch is there: until then a GPU works on the step while the CPU
    builds that batch.
    """

    def __init__(self, epoch: int, config: Config) -> None:
        self._epoch, self._config = epoch, config
        self._unread: Tensor | None = None
        self._total, self._number = 0.0, 0

    @property
    def mean(self) -> float:
        """Of the losses that were read."""
        return self._total / self._number

    def add(self, loss: Tensor) -> None:
        """The loss of a step, which may not be computed yet."""
        self._unread = loss

    def finish(self) -> bool:
        """Waits for the loss that was added last; whether there is any.

        Raises:
            TrainingError: If it is not finite.
        """
        if self._unread is not None:
            value = self._unread.item()
            if not math.isfinite(value):
                raise diverged(f"the loss is {value} in epoch {self._epoch}", self._config)
            self._total, self._number, self._unread = self._total + value, self._number + 1, None
        return self._number > 0


def _digest(model: Recommender) -> str:
    """A digest of a model's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _identity(
    config: Config,
    part: str,
    fit: Interactions,
    valid: Interactions,
    again: Mapping[str, int] | None,
) -> str:
    """A digest of the data and of the settings that decide what is learned from them."""
    settings = _settings_that_count(config)
    for name in ("patience", "epochs"):  # it may continue
        del settings["training"][name]
    # Where the number of epochs is given, it decides the learning rate.
    about = [settings, part, None if again is None else again[part]]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    _add_logs(digest, fit, valid)
    return digest.hexdigest()


def _settings_that_count(config: Config) -> dict[str, Any]:
    """The settings that decide what is learned from the data."""
    settings = config.model_dump()
    del settings["data"], settings["split"]  # what came of them counts
    del settings["model"]["backend"], settings["sequence"]["attention"]  # how, not what
    for name in ("device", "threads", "timeout", "shard_items"):  # likewise
        del settings["training"][name]
    return settings


def _settings(config: Config, again: Mapping[str, int] | None) -> str:
    """What all processes must be told alike."""
    divided = config.training.shard_items
    return json.dumps([_settings_that_count(config), divided, dict(again or {})], sort_keys=True)


def _require_same_logs(world: World, *logs: Interactions) -> None:
    """Checks that the events of each process's own users are those that the first one has."""
    if world.size == 1:
        return
    owner = part_of(logs[0].users.ids, world.size)

    def digest_of(rank: int) -> str:
        digest = hashlib.sha256()
        _add_logs(digest, *(own_rows(log, owner == rank) for log in logs))
        return digest.hexdigest()

    own = digest_of(world.rank)
    expected = [digest_of(rank) for rank in range(world.size)] if world.is_first else []
    expected = json.loads(world.first_says(json.dumps(expected)))
    world.require_same({"data": "" if expected[world.rank] == own else own})


def _add_logs(digest: hashlib._Hash, *logs: Interactions) -> None:
    for log in logs:
        digest.update(log.time_unit.encode())
        for column in (log.user, log.item, log.feedback, log.time):
            digest.update(column.tobytes())
