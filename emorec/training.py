"""Training: epochs over batches, validation, checkpoints, early stopping."""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from emorec.averaging import ParameterAverage
from emorec.batches import TrainingBatch, num_batches, training_batches
from emorec.checkpoint import EpochRecord, Progress
from emorec.config import Config, LossConfig
from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.evaluation.ranking import evaluate, left_out, recommend_top_k
from emorec.losses import bpr_loss, polarity_loss
from emorec.memory import keep_freed_memory
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.ops.softmax_loss import softmax_loss
from emorec.sampling import ItemSampler
from emorec.scoring import ModelScorer, graph_source
from emorec.similar_items import similar_items
from emorec.voting import choose_vote

__all__ = ["TrainingError", "train"]

_TARGETS = {
    "any": set(Feedback),
    "positive": {Feedback.EXPLICIT_POSITIVE, Feedback.IMPLICIT_POSITIVE},
    "explicit_positive": {Feedback.EXPLICIT_POSITIVE},
}


class TrainingError(RuntimeError):
    """Training that cannot go on, with the reason."""


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
    killed and goes on from its checkpoint ends where an undisturbed one does.

    Args:
        model: The model.
        config: The run.
        fit: What to learn from.
        valid: Targets that choose the epoch; if empty, the last epoch is taken.
        checkpoint: File to write after each epoch, and to go on from if it exists.
        on_epoch: Called after each epoch with all records so far.
        progress: Whether to show a progress bar.
        anneal: Whether the learning rate falls to 0, in a straight line over all epochs.

    Returns:
        A record per epoch.

    Raises:
        TrainingError: If the loss stops being a number, or nothing is there to learn from.
        FileError: If the checkpoint is of another model, other data or other settings.
    """
    options = config.training
    keep_freed_memory()
    model.to(options.device)
    if model.neighbours is not None:
        model.neighbours.remember(similar_items(fit, config.model.neighbours, progress))
    if isinstance(model.polarity, ItemPolarity):
        model.polarity.remember(fit)
    events = EventSequences.build(fit)
    learner = _Learner(model, config, events, fit, anneal)
    validate = _validation(model, config, fit, valid)
    identity = _identity(config, fit, valid, anneal)
    state = Progress.fresh(model, identity)
    if checkpoint is not None and checkpoint.exists():
        state = Progress.load(checkpoint, model, identity, learner.optimizer, learner.average)
    if state.epoch > options.epochs:
        warnings.warn(
            f"{checkpoint} has {state.epoch} epochs, more than training.epochs "
            f"({options.epochs}): none is added",
            stacklevel=2,
        )
    while state.epoch < options.epochs and state.epochs_without_gain < options.patience:
        started = time.perf_counter()
        loss = learner.run_epoch(state.epoch + 1, progress)
        with learner.average.applied() if learner.average else nullcontext():
            scores = validate() if validate else {}
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
    if model.neighbours is not None and len(valid):
        choose_vote(model, config, fit, valid, progress)
    return state.records


class _Learner:
    """The optimizer's side of training: batches in, parameters changed."""

    def __init__(
        self,
        model: Recommender,
        config: Config,
        events: EventSequences,
        fit: Interactions,
        anneal: bool,
    ) -> None:
        self.model, self.config, self.events, self.anneal = model, config, events, anneal
        options = config.training
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.average = ParameterAverage(model, options.averaging) if options.averaging else None
        self.source = graph_source(model, events, fit.num_items)
        self.sampler = ItemSampler(
            events, np.unique(fit.item), fit.num_items, config.loss.use_negatives
        )

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
        options, max_length = self.config.training, self.config.sequence.max_length
        rng = np.random.default_rng([options.seed, epoch])
        horizon = self.config.loss.horizon
        batches = training_batches(
            self.events, self.source, max_length, options.batch_size, rng, horizon
        )
        total, steps = 0.0, 0
        steps_per_epoch = num_batches(self.events, max_length, options.batch_size)
        bar = tqdm(
            batches,
            total=steps_per_epoch,
            desc=f"epoch {epoch}/{options.epochs}",
            unit="batch",
            leave=False,
            disable=not progress,
        )
        self.model.train()
        with torch.random.fork_rng():  # dropout
            torch.manual_seed(int(rng.integers(2**63)))
            for number, batch in enumerate(bar):
                if self.anneal:
                    done = (epoch - 1 + number / steps_per_epoch) / options.epochs
                    for group in self.optimizer.param_groups:
                        group["lr"] = options.learning_rate * (1 - done)
                loss = self._step(batch, rng)
                if loss is None:
                    continue
                if not math.isfinite(loss):
                    raise _diverged(f"the loss is {loss} in epoch {epoch}", self.config)
                total, steps = total + loss, steps + 1
                bar.set_postfix(loss=f"{total / steps:.4f}")
        if not steps:
            raise TrainingError(
                f"no event is a target: loss.targets is {self.config.loss.targets!r}, and no train "
                "event is of that kind"
            )
        return total / steps

    def _step(self, batch: TrainingBatch, rng: np.random.Generator) -> float | None:
        loss = self._loss(batch, rng)
        if loss is None:
            return None
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.training.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return loss.item()

    def _loss(self, batch: TrainingBatch, rng: np.random.Generator) -> Tensor | None:
        options = self.config.loss
        batch = batch.to(self.config.training.device)
        targets = batch.targets
        predictable = targets.exists  # [T, K]
        if self.model.sequence_encoder is None and batch.sees_graph is not None:
            # the graph is all that this model knows
            predictable = predictable & batch.sees_graph[:, None]
        wanted = predictable & _is_target(targets.feedback, options)
        ranked = wanted.any(1)
        if not ranked.any():
            return None
        state, taste = self.model(batch.sequences, batch.graph, batch.user_node, batch.sees_graph)
        if options.ranking == "softmax":
            items = self.model.item_embedding.weight
            loss = softmax_loss(state[ranked], items, targets.item[ranked], wanted[ranked])
        else:
            token, item = wanted.nonzero()[:, 0], targets.item[wanted]
            user = batch.sequences.user[batch.sequences.row[token]]
            others, valid = self._sampled(user, rng)
            scores = self.model.scores(state[token], torch.cat([item[:, None], others], dim=1))
            # an invalid sample scores -inf, where the loss and its gradient are 0
            loss = bpr_loss(scores[:, 0], scores[:, 1:].masked_fill(~valid, -torch.inf)).mean()
        if self.model.polarity is not None:
            logit = self.model.polarity.logits(taste, targets.item, targets.feedback)[predictable]
            levels = torch.tensor(self.model.polarity.levels, device=logit.device)
            is_reached = targets.feedback[predictable][:, None] <= levels
            loss = loss + options.polarity_weight * polarity_loss(logit, is_reached).mean()
        return loss

    def _sampled(self, user: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        items, valid = self.sampler.sample(user.cpu().numpy(), self.config.loss.samples, rng)
        return torch.from_numpy(items).to(user.device), torch.from_numpy(valid).to(user.device)


def _validation(
    model: Recommender, config: Config, fit: Interactions, valid: Interactions
) -> Callable[[], dict[str, float]] | None:
    """A function that scores the model on the validation targets; None if there are none."""
    if len(valid) == 0:
        return None
    scorer = ModelScorer(model, fit, config.training.device)
    users = torch.from_numpy(np.unique(valid.user))
    seen, k = left_out(fit, config.evaluation.seen), config.evaluation.k
    candidates = torch.zeros(fit.num_items, dtype=torch.bool)
    candidates[np.unique(fit.item)] = True

    def finite_scores(users: Tensor) -> Tensor:
        scores = scorer(users)
        if not torch.isfinite(scores).all():
            raise _diverged("the scores are not finite any more", config)
        return scores

    def validate() -> dict[str, float]:
        size = config.evaluation.batch_size
        topk = recommend_top_k(finite_scores, users, seen, k, candidates, size)
        summary = evaluate(topk, users, valid, k).summary()
        return {
            "recall": summary["recall_any"],
            "ndcg": summary["ndcg_any"],
            "recall_likes": summary["recall_likes"],
            "ndcg_likes": summary["ndcg_likes"],
            "disliked_share": summary["disliked_share"],
        }

    return validate


def _identity(config: Config, fit: Interactions, valid: Interactions, anneal: bool) -> str:
    """A digest of the data and of the settings that decide what is learned from them."""
    settings = asdict(config)
    del settings["data"], settings["split"]  # what came of them counts
    del settings["model"]["backend"], settings["sequence"]["attention"]  # how, not what
    del settings["evaluation"]["batch_size"]
    for name in ("patience", "device", "threads"):  # it may go on longer, or elsewhere
        del settings["training"][name]
    if not anneal:  # else the epochs decide the learning rate
        del settings["training"]["epochs"]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for part in (fit, valid):
        digest.update(part.time_unit.encode())
        for column in (part.user, part.item, part.feedback, part.time):
            digest.update(column.tobytes())
    return digest.hexdigest()


def _diverged(what: str, config: Config) -> TrainingError:
    rate = config.training.learning_rate
    return TrainingError(f"{what}; lower training.learning_rate (now {rate})")


def _is_target(feedback: Tensor, options: LossConfig) -> Tensor:
    """Whether events of these kinds are to be ranked high, bool, the shape of ``feedback``."""
    wanted = torch.tensor([kind in _TARGETS[options.targets] for kind in Feedback])
    return wanted.to(feedback.device)[feedback]
