"""Training: epochs over batches, validation, checkpoints, early stopping."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from emorec.config import Config
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.inference.neighbours import Neighbours, similar_items
from emorec.memory import keep_freed_memory
from emorec.nn.feedback_sum import FeedbackSum
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.training.averaging import ParameterAverage
from emorec.training.batches import TrainingBatch, half_batches, num_batches, training_batches
from emorec.training.candidates import CandidateSampler, num_drawn
from emorec.training.checkpoint import EpochRecord, Progress
from emorec.training.losses import Objective
from emorec.training.sampling import ItemSampler
from emorec.training.tuning import tune_decay, tune_neighbours
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
    anneal: bool = False,
) -> list[EpochRecord]:
    """Trains a model in place and leaves it at its best epoch on validation.

    All randomness of an epoch comes from the seed and the epoch's number, so a run that was
    killed and resumed from its checkpoint gives the same result as an undisturbed one.

    Args:
        model: The model.
        config: The run.
        fit: The events to train on.
        valid: Targets that choose the epoch; if empty, the last epoch is taken.
        checkpoint: File to write after each epoch, and to resume from if it exists.
        on_epoch: Called after each epoch with all records so far.
        progress: Whether to show a progress bar.
        anneal: Whether the learning rate falls to 0, in a straight line over all epochs.

    Returns:
        A record per epoch.

    Raises:
        TrainingError: If the loss is not finite, or there is no target.
        FileError: If the checkpoint is of another model, other data or other settings.
    """
    options = config.training
    epochs = most_epochs(config, valid)
    keep_freed_memory()
    model.to(options.device)
    if isinstance(model.neighbours, Neighbours):
        model.neighbours.fit(similar_items(fit, config.model.neighbours, progress))
    if isinstance(model.polarity, ItemPolarity):
        model.polarity.fit(fit)
    events = EventSequences.build(fit)
    learner = _Learner(model, config, events, fit, epochs, anneal)
    validation = Validation(model, config, fit, events, valid) if len(valid) else None
    identity = _identity(config, fit, valid, anneal)
    state = Progress.fresh(model, identity)
    if checkpoint is not None and checkpoint.exists():
        state = Progress.load(checkpoint, model, identity, learner.optimizer, learner.average)
    if state.epoch > epochs:
        warnings.warn(
            f"{checkpoint} has {state.epoch} epochs, more than training.epochs ({epochs}): none is "
            "added",
            stacklevel=2,
        )
    steps = _steps_per_epoch(events, config)
    patience = max(options.patience, math.ceil(_STEPS_OF_PATIENCE / steps))
    while state.epoch < epochs and state.epochs_without_gain < patience:
        started = time.perf_counter()
        loss = learner.run_epoch(state.epoch + 1, progress)
        with learner.average.applied() if learner.average else nullcontext():
            scores = validation() if validation else {}
            record = EpochRecord(state.epoch + 1, loss, time.perf_counter() - started, scores)
            score = scores[config.evaluation.select] if scores else float(record.epoch)
            if math.isnan(score):
                raise TrainingError(
                    f"evaluation.select is {config.evaluation.select!r}, but no validation event "
                    "is liked; choose by 'ndcg'"
                )
            state.advance(record, score, model)
        if checkpoint is not None:
            state.save(checkpoint, model, learner.optimizer, learner.average)
        on_epoch(state.records)
    model.load_state_dict(state.best)
    if isinstance(model.neighbours, Neighbours) and validation is not None:
        tune_neighbours(model.neighbours, config, validation, progress)
    if isinstance(model.graph_encoder, FeedbackSum) and validation is not None:
        tune_decay(model.graph_encoder, config, validation)
    return state.records


def most_epochs(config: Config, valid: Interactions) -> int:
    """How many epochs training may take; see ``training.epochs``."""
    return config.training.epochs or (MOST_EPOCHS if len(valid) else _EPOCHS_WITHOUT_VALIDATION)


class _Learner:
    """Runs epochs: batches, objective, optimizer steps."""

    def __init__(
        self,
        model: Recommender,
        config: Config,
        events: EventSequences,
        fit: Interactions,
        epochs: int,
        anneal: bool,
    ) -> None:
        self.model, self.config, self.events = model, config, events
        self.epochs, self.anneal = epochs, anneal
        options = config.training
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(),
            lr=options.learning_rate,
            weight_decay=0.0,
            fused=True,
        )
        self.average = ParameterAverage(model, options.averaging) if options.averaging else None
        self.source = model.graph_source(events, fit.num_items)
        items = np.unique(fit.item)
        sampler = ItemSampler(events, items, fit.num_items, config.loss.use_negatives)
        candidates = None
        drawn = num_drawn(config.loss.negatives, fit.num_items)
        if config.loss.ranking == "softmax" and drawn:
            candidates = CandidateSampler(events.item, fit.num_items, drawn)
        self.objective = Objective(model, config.loss, sampler, candidates)

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """All parameters; the polarity's vectors of items have a weight decay of their own."""
        polarity, decay = self.model.polarity, self.config.loss.polarity_decay
        tables = polarity.tables() if isinstance(polarity, ItemPolarity) else []
        of_tables = {id(table) for table in tables}
        others = [each for each in self.model.parameters() if id(each) not in of_tables]
        groups: list[dict[str, Any]] = [{"params": others}]
        return groups + ([{"params": tables, "weight_decay": decay}] if tables else [])

    def run_epoch(self, epoch: int, progress: bool) -> float:
        """One pass over all targets; the mean loss of its steps."""
        options = self.config.training
        rng = np.random.default_rng([options.seed, epoch])
        batches = self._batches(rng)
        total, steps = 0.0, 0
        steps_per_epoch = _steps_per_epoch(self.events, self.config)
        bar = tqdm(
            batches,
            total=steps_per_epoch,
            desc=f"epoch {epoch}" + (f"/{self.epochs}" if self.epochs < MOST_EPOCHS else ""),
            unit="batch",
            leave=False,
            disable=not progress,
        )
        self.model.train()
        with torch.random.fork_rng():  # dropout
            torch.manual_seed(int(rng.integers(2**63)))
            for number, batch in enumerate(bar):
                if self.anneal:
                    done = (epoch - 1 + number / steps_per_epoch) / self.epochs
                    for group in self.optimizer.param_groups:
                        group["lr"] = options.learning_rate * (1 - done)
                loss = self._step(batch, rng)
                if loss is None:
                    continue
                if not math.isfinite(loss):
                    raise diverged(f"the loss is {loss} in epoch {epoch}", self.config)
                total, steps = total + loss, steps + 1
                bar.set_postfix(loss=f"{total / steps:.4f}")
        if not steps:
            raise TrainingError(
                f"no event is a target: loss.targets is {self.config.loss.targets!r}, and no train "
                "event is of that kind"
            )
        return total / steps

    def _batches(self, rng: np.random.Generator) -> Iterator[TrainingBatch]:
        batch_size = self.config.training.batch_size
        if self.config.graph.known == "half":
            assert self.source is not None
            return half_batches(self.events, self.source, batch_size, rng)
        max_length, horizon = self.config.sequence.max_length, self.config.loss.horizon
        return training_batches(self.events, self.source, max_length, batch_size, rng, horizon)

    def _step(self, batch: TrainingBatch, rng: np.random.Generator) -> float | None:
        loss = self.objective(batch.to(self.config.training.device), rng)
        if loss is None:
            return None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return loss.item()


def _steps_per_epoch(events: EventSequences, config: Config) -> int:
    batch_size = config.training.batch_size
    if config.graph.known == "half":
        return -(-int((events.lengths > 0).sum()) // batch_size)
    return num_batches(events, config.sequence.max_length, batch_size)


def _identity(config: Config, fit: Interactions, valid: Interactions, anneal: bool) -> str:
    """A digest of the data and of the settings that decide what is learned from them."""
    settings = config.model_dump()
    del settings["data"], settings["split"]  # what came of them counts
    del settings["model"]["backend"], settings["sequence"]["attention"]  # how, not what
    for name in ("patience", "device", "threads"):  # it may continue for longer, or elsewhere
        del settings["training"][name]
    if not anneal:  # else the epochs decide the learning rate
        del settings["training"]["epochs"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in (fit, valid):
        digest.update(part.time_unit.encode())
        for column in (part.user, part.item, part.feedback, part.time):
            digest.update(column.tobytes())
    return digest.hexdigest()
