"""Training batches: windows of histories, their targets, and the graph of earlier events.

To prevent leakage, the graph must not contain the targets of a batch. Each epoch therefore samples
a cutoff per user: the graph holds the events before it, and only later targets use the graph.
Earlier targets are predicted from the sequence alone. At inference the graph holds the whole
history, so that the two situations match.

Without a sequence encoder, the events before the cutoff would be no targets. `half_batches` needs
no cutoff: the graph holds a random half of each user's events, and the other half are the targets,
so that each event is predicted from earlier and later events of its user.

Where several processes train, each has the rows of its own users, see `emorec.training.shares`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from emorec.data.graph import FeedbackGraph, GraphSource
from emorec.data.sequences import SequenceBatch, Targets, Windows, windows_of
from emorec.data.transfer import moved
from emorec.training.shares import Share, WholeBatch

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
        whole: Where several processes train, what all of them have of the batch; else None.
    """

    sequences: SequenceBatch
    targets: Targets
    graph: FeedbackGraph | None
    user_node: Tensor | None
    sees_graph: Tensor | None
    whole: WholeBatch | None = None

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The batch on another device."""
        held = {name: part for name, part in vars(self).items() if part is not None}
        return replace(self, **{name: moved(part, device) for name, part in held.items()})

    def counts(self, *masks: Tensor) -> tuple[list[int], list[int]]:
        """How often each mask is true: here, and in the batches of all processes.

        A GPU is waited for once, however many masks there are.
        """
        own = torch.stack([mask.sum() for mask in masks])
        here = own.tolist()
        return here, here if self.whole is None else self.whole.world.sum(own).tolist()


def training_batches(
    share: Share,
    source: GraphSource | None,
    max_length: int,
    batch_size: int,
    rng: np.random.Generator,
    horizon: int = 1,
) -> Iterator[TrainingBatch]:
    """One epoch: every event is the next one once, in random order.

    Args:
        share: The train events.
        source: Where graphs come from; None for a model without graph encoder.
        max_length: Events per window.
        batch_size: Windows per batch, of all processes.
        rng: Source of the order and of the cutoffs.
        horizon: Targets per token.
    """
    windows = windows_of(share.lengths, max_length)
    num_known = (rng.random(len(share.lengths)) * share.lengths).astype(np.int64)
    full_graph = None
    if source is not None and source.full:
        full_graph = source.graph(np.arange(len(num_known)), num_known)
    for rows in _shuffled_by_length(windows, batch_size, rng):
        chosen = windows.select(rows)
        own, whole = share.part_of(chosen.user, chosen.stop - chosen.start)
        chosen = chosen.select(own)
        sequences, targets = share.events.training_batch(chosen, horizon)
        batch = TrainingBatch(sequences, targets, None, None, None, whole)
        if source is None:
            yield batch
            continue
        known = torch.from_numpy(num_known)[sequences.user[sequences.row]]
        batch = replace(batch, sees_graph=targets.place >= known)
        if full_graph is not None:
            yield replace(batch, graph=full_graph, user_node=sequences.user)
        else:
            known = num_known[chosen.user]
            needed = np.where(known < chosen.stop, known, 0)
            graph, user_node = source.graph(chosen.user, needed), torch.arange(len(chosen))
            yield replace(batch, graph=graph, user_node=user_node)


def half_batches(
    share: Share, source: GraphSource, batch_size: int, rng: np.random.Generator
) -> Iterator[TrainingBatch]:
    """One epoch: every user once, in random order, for a model without a sequence encoder.

    Events of one user with one item are in the same half, so that no target is in the graph.

    Args:
        share: The train events.
        source: Where graphs come from.
        batch_size: Users per batch, of all processes.
        rng: Source of the order and of the halves.
    """
    is_known, users = share.halves(rng)
    known, others = share.events.select(is_known), share.events.select(~is_known)
    source = replace(source, events=known)
    full_graph = None
    if source.full:
        full_graph = source.graph(np.arange(known.num_users), known.lengths)
    users = rng.permutation(users)
    for chosen in np.split(users, range(batch_size, len(users), batch_size)):
        own, whole = share.part_of(chosen, np.ones_like(chosen))
        chosen = chosen[own]
        sequences, targets = known.inference_batch(chosen, 1), others.all_targets(chosen)
        batch = TrainingBatch(sequences, targets, None, None, None, whole)
        if full_graph is not None:
            yield replace(batch, graph=full_graph, user_node=sequences.user)
        else:
            graph = source.graph(chosen, known.lengths[chosen])
            yield replace(batch, graph=graph, user_node=torch.arange(len(chosen)))


def num_batches(lengths: np.ndarray, max_length: int, batch_size: int) -> int:
    """Batches per epoch of `training_batches`, with ``lengths`` events of each user."""
    return -(-len(windows_of(lengths, max_length)) // batch_size)


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
