"""Training batches: windows of histories, their targets, and the graph of earlier events.

To prevent leakage, the graph must not contain the targets of a batch. Each epoch therefore samples
a cutoff per user: the graph holds the events before it, and only later targets use the graph.
Earlier targets are predicted from the sequence alone. At inference the graph holds the whole
history, so that the two situations match.

Without a sequence encoder, the events before the cutoff would be no targets. `half_batches` needs
no cutoff: the graph holds a random half of each user's events, and the other half are the targets,
so that each event is predicted from earlier and later events of its user.

Where several processes train, each draws the whole of a batch and has the rows of its own users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from emorec.data.graph import FeedbackGraph, GraphSource
from emorec.data.sequences import EventSequences, SequenceBatch, Targets, Windows

__all__ = ["TrainingBatch", "half_batches", "num_batches", "training_batches"]

_BUCKETS = 8  # batches sorted by length together: less padding, still shuffled


@dataclass(frozen=True)
class TrainingBatch:
    """The input of one training step.

    Attributes:
        sequences: Input sequences, ``T`` tokens.
        targets: The events after each token.
        graph: Graph of the events before the cutoffs, or None.
        user_node: The graph's user node of each sequence, int64 ``[B]``, or None.
        sees_graph: Whether each token's targets use the graph, bool ``[T]``, or None.
        whole: Where several processes train, the batch of all of them, without its graph, of which
            this one has the rows of its own users; else None.
        own: The tokens of ``whole`` that are this batch's, int64 ``[T]``, or None.
    """

    sequences: SequenceBatch
    targets: Targets
    graph: FeedbackGraph | None
    user_node: Tensor | None
    sees_graph: Tensor | None
    whole: TrainingBatch | None = None
    own: Tensor | None = None

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The batch on another device."""
        parts = {name: part.to(device) for name, part in vars(self).items() if part is not None}
        return TrainingBatch(**{**vars(self), **parts})


def training_batches(
    events: EventSequences,
    source: GraphSource | None,
    max_length: int,
    batch_size: int,
    rng: np.random.Generator,
    horizon: int = 1,
    is_own: np.ndarray | None = None,
) -> Iterator[TrainingBatch]:
    """One epoch: every event is the next one once, in random order.

    Args:
        events: The train events.
        source: Where graphs come from; None for a model without graph encoder.
        max_length: Events per window.
        batch_size: Windows per batch.
        rng: Source of the order and of the cutoffs.
        horizon: Targets per token.
        is_own: Whose rows this process has, bool ``[U]``; None: all users'.
    """
    windows = events.windows(max_length)
    num_known = (rng.random(events.num_users) * events.lengths).astype(np.int64)
    full_graph = None
    if source is not None and source.full:
        full_graph = source.graph(np.arange(events.num_users), num_known)

    def without_graph(chosen: Windows) -> TrainingBatch:
        sequences, targets = events.training_batch(chosen, horizon)
        sees_graph = None
        if source is not None:
            known = torch.from_numpy(num_known)[sequences.user[sequences.row]]
            sees_graph = targets.place >= known
        return TrainingBatch(sequences, targets, None, None, sees_graph)

    for rows in _shuffled_by_length(windows, batch_size, rng):
        chosen = windows.select(rows)
        batch = without_graph(chosen)
        if is_own is not None:
            mine = is_own[chosen.user]
            chosen = chosen.select(np.flatnonzero(mine))
            batch = _part(batch, without_graph(chosen), mine)
        if source is None:
            yield batch
        elif full_graph is not None:
            yield replace(batch, graph=full_graph, user_node=batch.sequences.user)
        else:
            known = num_known[chosen.user]
            needed = np.where(known < chosen.stop, known, 0)
            graph, user_node = source.graph(chosen.user, needed), torch.arange(len(chosen))
            yield replace(batch, graph=graph, user_node=user_node)


def half_batches(
    events: EventSequences,
    source: GraphSource,
    batch_size: int,
    rng: np.random.Generator,
    is_own: np.ndarray | None = None,
) -> Iterator[TrainingBatch]:
    """One epoch: every user once, in random order, for a model without a sequence encoder.

    Events of one user with one item are in the same half, so that no target is in the graph.

    Args:
        events: The train events.
        source: Where graphs come from.
        batch_size: Users per batch.
        rng: Source of the order and of the halves.
        is_own: Whose rows this process has, bool ``[U]``; None: all users'.
    """
    user = np.repeat(np.arange(events.num_users), events.lengths)
    pairs, pair = np.unique(user * source.num_items + events.item, return_inverse=True)
    is_known = (rng.random(len(pairs)) < 0.5)[pair]
    known, others = events.select(is_known), events.select(~is_known)
    source = replace(source, events=known)
    full_graph = None
    if source.full:
        full_graph = source.graph(np.arange(events.num_users), known.lengths)

    def without_graph(chosen: np.ndarray) -> TrainingBatch:
        sequences, targets = known.inference_batch(chosen, 1), others.all_targets(chosen)
        return TrainingBatch(sequences, targets, None, None, None)

    users = rng.permutation(np.flatnonzero(others.lengths))
    for chosen in np.split(users, range(batch_size, len(users), batch_size)):
        batch = without_graph(chosen)
        if is_own is not None:
            mine = is_own[chosen]
            chosen = chosen[mine]
            batch = _part(batch, without_graph(chosen), mine)
        if full_graph is not None:
            yield replace(batch, graph=full_graph, user_node=batch.sequences.user)
        else:
            graph = source.graph(chosen, known.lengths[chosen])
            yield replace(batch, graph=graph, user_node=torch.arange(len(chosen)))


def num_batches(events: EventSequences, max_length: int, batch_size: int) -> int:
    """Batches per epoch."""
    return -(-len(events.windows(max_length)) // batch_size)


def _part(whole: TrainingBatch, batch: TrainingBatch, mine: np.ndarray) -> TrainingBatch:
    """A process's part of a batch, whose rows ``mine``, bool ``[B]``, it has."""
    own = torch.from_numpy(mine)[whole.sequences.row].nonzero()[:, 0]
    return replace(batch, whole=whole, own=own)


def _shuffled_by_length(
    windows: Windows, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Rows of each batch: random groups of windows, in which similar lengths share a batch."""
    order = rng.permutation(len(windows))
    length = windows.stop - windows.start
    group = np.arange(len(order)) // (batch_size * _BUCKETS)
    order = order[np.lexsort((length[order], group))]
    batches = np.split(order, range(batch_size, len(order), batch_size))
    return [batches[place] for place in rng.permutation(len(batches))]
