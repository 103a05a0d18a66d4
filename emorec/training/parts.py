"""The parts of a model that are trained one after the other: the feedback sum, then the encoders.

They share no parameters, and what suits one does not suit the other: the sum starts from singular
vectors and needs small steps, and each overfits after a number of epochs of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emorec.config import Config
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.nn.feedback_sum import FeedbackSum
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.processes import ALONE, World
from emorec.training.averaging import ParameterAverage
from emorec.training.batches import TrainingBatch, half_batches, num_batches, training_batches
from emorec.training.candidates import CandidateSampler, num_drawn
from emorec.training.checkpoint import ENCODERS, GRAPH, EpochRecord
from emorec.training.losses import Objective, sum_loss
from emorec.training.sampling import ItemSampler
from emorec.training.sharding import ItemShards
from emorec.training.shares import Share

__all__ = [
    "Part",
    "chosen_dropout",
    "chosen_epochs",
    "parts_of",
    "polarity_decay",
    "selected_score",
    "with_chosen_horizon",
]

_MOST_DECAY, _DECAY_EVENTS = 0.75, 64
_DROPOUT, _DROPOUT_OF_LARGE_LOGS, _LARGE_LOG = 0.3, 0.2, 300_000
_LONGEST_HORIZON, _USUAL_HORIZON = 30, 3


def selected_score(config: Config, part: str) -> str:
    """The validation score that chooses a part's epoch; the sum predicts likes, whatever else."""
    return "ndcg_likes" if part == GRAPH else config.evaluation.select


def chosen_epochs(config: Config, records: list[EpochRecord]) -> dict[str, int]:
    """The epoch that validation chose, of each part that was trained."""
    best: dict[str, EpochRecord] = {}
    for record in records:
        select = selected_score(config, record.part)
        known = best.get(record.part)
        if record.valid and (known is None or record.valid[select] > known.valid[select]):
            best[record.part] = record
    return {part: record.epoch for part, record in best.items()}


def with_chosen_horizon(config: Config, valid: Interactions, world: World = ALONE) -> Config:
    """A configuration whose states predict as many events as suits what is asked of them.

    Where a user's next event alone counts, states should predict that one; where the next ten
    count, the next three measured best. So it is a third of the validation events per user who has
    any, rounded, between 1 and 30.

    Args:
        config: The run; without ``loss.horizon=0`` it stays as it is.
        valid: The validation events; without any, three events are predicted.
        world: The processes; the validation events of the first one count.
    """
    horizon = _USUAL_HORIZON
    if len(valid):
        per_user = len(valid) / len(np.unique(valid.user))
        horizon = min(_LONGEST_HORIZON, max(1, round(per_user / 3)))
    horizon = int(world.first_says(str(horizon)))
    if config.loss.horizon:
        return config
    return config.updated({"loss": {"horizon": horizon}}, "")


def parts_of(
    model: Recommender,
    config: Config,
    events: EventSequences,
    log: Interactions,
    world: World = ALONE,
    shards: ItemShards | None = None,
) -> list[Part]:
    """The parts of a model that are trained, in order.

    Args:
        model: The model.
        config: The run.
        events: The events to train on, as sequences.
        log: The same as a log.
        world: The processes that train, each on the events of its own users.
        shards: Item vectors that are divided over them, or None.
    """
    share = Share.of(events, log.num_items, log.users, world)
    parts: list[Part] = []
    if model.feedback_sum is not None:
        parts.append(_GraphPart(model, config, share, shards))
    if model.item_embedding is not None:
        parts.append(_EncoderPart(model, config, share, shards))
    return parts


def polarity_decay(setting: float, item_counts: np.ndarray) -> float:
    """The weight decay of the polarity's tables.

    The fewer events an item has, the sooner its vectors overfit; from some point on, counts alone
    are left.

    Args:
        setting: ``loss.polarity_decay``; below 0, the decay is chosen by the log.
        item_counts: Events of every item that the polarity is trained on, int64 ``[I]``.
    """
    if setting >= 0:
        return setting
    per_item = item_counts.sum() / max(1, np.count_nonzero(item_counts))
    return min(_MOST_DECAY, _DECAY_EVENTS / max(1.0, float(per_item)))


def chosen_dropout(setting: float, num_events: int) -> float:
    """The dropout of the sequence encoder; the more there is to learn from, the less it needs.

    Args:
        setting: ``sequence.dropout``; below 0, the dropout is chosen by the log.
        num_events: Size of the log that the encoder is trained on.
    """
    if setting >= 0:
        return setting
    return _DROPOUT if num_events < _LARGE_LOG else _DROPOUT_OF_LARGE_LOGS


class Part(ABC):
    """What the loop needs to know of a part.

    Attributes:
        name: Of the part, in records and file names.
        optimizer: Of its parameters.
        average: Moving average of its parameters, or None.
        learning_rate: At the start of training.
        steps_per_epoch: Batches of an epoch.
        no_target: What to say where no event is a target.
    """

    name: str
    optimizer: torch.optim.Optimizer
    average: ParameterAverage | None = None
    learning_rate: float
    steps_per_epoch: int
    no_target: str

    @abstractmethod
    def batches(self, rng: np.random.Generator) -> Iterator[TrainingBatch]:
        """The batches of an epoch."""

    @abstractmethod
    def loss(self, batch: TrainingBatch, rng: np.random.Generator) -> Tensor | None:
        """The loss of a batch, with gradient; None for a batch without a target."""

    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""


class _GraphPart(Part):
    """The feedback sum: half of a user's events, chosen at random, predicts likes of the other."""

    name = GRAPH
    no_target = "no event is a target: the feedback sum learns from likes, and no event is one"

    def __init__(
        self,
        model: Recommender,
        config: Config,
        share: Share,
        shards: ItemShards | None,
    ) -> None:
        options = config.graph
        source = model.graph_source(share.events, share.num_items)
        assert model.feedback_sum is not None and source is not None
        self._sum: FeedbackSum = model.feedback_sum
        self._share, self._source, self._batch_size = share, source, options.batch_size
        self._shards = shards
        self._candidates = _candidates(config, share)
        self.learning_rate = options.learning_rate
        self.optimizer = torch.optim.AdamW(
            self._sum.parameters(), lr=options.learning_rate, weight_decay=0.0, fused=True
        )
        self.steps_per_epoch = -(-int(np.count_nonzero(share.lengths)) // options.batch_size)

    def batches(self, rng: np.random.Generator) -> Iterator[TrainingBatch]:
        return half_batches(self._share, self._source, self._batch_size, rng)

    def loss(self, batch: TrainingBatch, rng: np.random.Generator) -> Tensor | None:
        return sum_loss(self._sum, batch, self._candidates, rng, self._shards)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._sum.parameters())


class _EncoderPart(Part):
    """Encoders and polarity head: windows of histories predict the events after them."""

    name = ENCODERS

    def __init__(
        self,
        model: Recommender,
        config: Config,
        share: Share,
        shards: ItemShards | None,
    ) -> None:
        options = config.training
        self._model, self._config, self._share = model, config, share
        self._source = None
        if model.graph_encoder is not None:
            self._source = model.graph_source(share.events, share.num_items)
        if model.sequence_encoder is not None:
            dropout = chosen_dropout(config.sequence.dropout, share.num_events)
            model.sequence_encoder.set_dropout(dropout)
        self._decay = polarity_decay(config.loss.polarity_decay, share.item_counts)
        self.learning_rate = options.learning_rate
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=options.learning_rate, weight_decay=0.0, fused=True
        )
        if options.averaging:
            self.average = ParameterAverage(model, options.averaging)
        sampler = ItemSampler(
            share.events,
            np.flatnonzero(share.item_counts),
            share.num_items,
            config.loss.use_negatives,
            share.world,
        )
        candidates = None
        if config.loss.ranking == "softmax":
            candidates = _candidates(config, share)
        self._objective = Objective(model, config.loss, sampler, candidates, shards)
        max_length = config.sequence.max_length
        self.steps_per_epoch = num_batches(share.lengths, max_length, options.batch_size)
        self.no_target = (
            f"no event is a target: loss.targets is {config.loss.targets!r}, and no train event is "
            "of that kind"
        )

    def batches(self, rng: np.random.Generator) -> Iterator[TrainingBatch]:
        config = self._config
        max_length, horizon = config.sequence.max_length, config.loss.horizon
        batch_size = config.training.batch_size
        return training_batches(self._share, self._source, max_length, batch_size, rng, horizon)

    def loss(self, batch: TrainingBatch, rng: np.random.Generator) -> Tensor | None:
        return self._objective(batch, rng)

    def parameters(self) -> list[nn.Parameter]:
        model = self._model
        of_sum = set() if model.feedback_sum is None else set(model.feedback_sum.parameters())
        return [each for each in model.parameters() if each not in of_sum]

    def _groups(self) -> list[dict[str, Any]]:
        """All parameters; the polarity's vectors of items have a weight decay of their own."""
        polarity = self._model.polarity
        tables = polarity.tables() if isinstance(polarity, ItemPolarity) else []
        of_tables = {id(table) for table in tables}
        others = [each for each in self.parameters() if id(each) not in of_tables]
        groups: list[dict[str, Any]] = [{"params": others}]
        return groups + ([{"params": tables, "weight_decay": self._decay}] if tables else [])


def _candidates(config: Config, share: Share) -> CandidateSampler | None:
    """What draws the items of a sampled softmax; None for the whole catalogue."""
    drawn = num_drawn(config.loss.negatives, share.num_items)
    return CandidateSampler(share, drawn) if drawn else None
