"""Event sequences: every user's events, oldest first, packed into one array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from emorec.data.interactions import TICKS_PER_DAY, Interactions
from emorec.data.transfer import moved

__all__ = [
    "CLS",
    "EventSequences",
    "SequenceBatch",
    "Targets",
    "Windows",
    "ranges",
    "windows_of",
]

CLS = -1
"""Item index and kind of feedback of the [CLS] token that opens every sequence."""


@dataclass(frozen=True)
class SequenceBatch:
    """Packed input sequences; each is a [CLS] token followed by events, oldest first.

    With ``B`` sequences and ``T`` tokens in all, sequence ``b`` holds the tokens
    ``cu_seqlens[b] : cu_seqlens[b + 1]``.

    Attributes:
        user: User of each sequence, int64 ``[B]``.
        item: Item of each token, int64 ``[T]``; `CLS` opens each sequence.
        feedback: Kind of feedback of each token, int64 ``[T]``; `CLS` likewise.
        days: Days since the first event of the sequence, float64 ``[T]``; 0 at [CLS].
        days_to_next: Days from each event to the user's next one or, from the last token, to the
            time of the request, float64 ``[T]``; 0 at [CLS].
        position: 0 at [CLS], then 1, 2, ..., int32 ``[T]``.
        cu_seqlens: Where the sequences begin and end, int64 ``[B + 1]``.
    """

    user: Tensor
    item: Tensor
    feedback: Tensor
    days: Tensor
    days_to_next: Tensor
    position: Tensor
    cu_seqlens: Tensor

    @property
    def lengths(self) -> Tensor:
        """Tokens per sequence, int64 ``[B]``."""
        return self.cu_seqlens.diff()

    @property
    def row(self) -> Tensor:
        """Sequence of each token, int64 ``[T]``."""
        rows = torch.arange(len(self.user), device=self.user.device)
        return torch.repeat_interleave(rows, self.lengths, output_size=self.item.shape[0])

    @property
    def last(self) -> Tensor:
        """Last token of each sequence, int64 ``[B]``."""
        return self.cu_seqlens[1:] - 1

    def to(self, device: torch.device | str) -> SequenceBatch:
        """The batch on another device."""
        return SequenceBatch(**{name: moved(value, device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Targets:
    """The events that follow each token of a `SequenceBatch`, the next ``K`` of them.

    Attributes:
        item: Items, the next event's first, int64 ``[T, K]``.
        feedback: Kinds of feedback, int64 ``[T, K]``.
        exists: Whether the history is that long, bool ``[T, K]``; the first always exists.
            Where it is false, item and feedback are those of the next event.
        place: Place of the next event in the user's whole history, from 0, int64 ``[T]``.
    """

    item: Tensor
    feedback: Tensor
    exists: Tensor
    place: Tensor

    def to(self, device: torch.device | str) -> Targets:
        """The targets on another device."""
        return Targets(**{name: moved(value, device) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Windows:
    """Stretches ``start : stop`` of users' histories whose events are training targets.

    Attributes:
        user: User of each window, int64 ``[W]``.
        start: First event, int64 ``[W]``.
        stop: One past the last event, int64 ``[W]``.
    """

    user: np.ndarray
    start: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: np.ndarray) -> Windows:
        """The given windows."""
        return Windows(self.user[rows], self.start[rows], self.stop[rows])


@dataclass(frozen=True)
class EventSequences:
    """All events by user and time; equal times keep the order of the log.

    Attributes:
        offsets: User ``u`` owns the events ``offsets[u] : offsets[u + 1]``, int64 ``[U + 1]``.
        item: Items, int64 ``[N]``.
        feedback: Kinds of feedback, int8 ``[N]``.
        time: Times, int64 ``[N]``.
        ticks_per_day: Units of ``time`` in a day.
    """

    offsets: np.ndarray
    item: np.ndarray
    feedback: np.ndarray
    time: np.ndarray
    ticks_per_day: int

    @classmethod
    def build(cls, interactions: Interactions) -> EventSequences:
        """Sorts interactions into sequences."""
        order = interactions.chronological()
        counts = np.bincount(interactions.user, minlength=interactions.num_users)
        return cls(
            offsets=np.concatenate([[0], np.cumsum(counts)]),
            item=interactions.item[order],
            feedback=interactions.feedback[order],
            time=interactions.time[order],
            ticks_per_day=TICKS_PER_DAY[interactions.time_unit],
        )

    @property
    def num_users(self) -> int:
        """Number of users, those without events included."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Events per user, int64 ``[U]``."""
        return np.diff(self.offsets)

    def events(
        self, user: np.ndarray, stop: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the first ``stop`` events of each given user (all by default).

        Returns:
            For each event its place in ``user`` and its row in the packed arrays, int64 ``[M]``.
        """
        counts = self.lengths[user] if stop is None else stop
        return ranges(self.offsets[user], counts)

    def select(self, rows: np.ndarray) -> EventSequences:
        """The events where ``rows`` is true, bool ``[N]``, of the same users."""
        before = np.concatenate([[0], np.cumsum(rows)])
        return EventSequences(
            before[self.offsets],
            self.item[rows],
            self.feedback[rows],
            self.time[rows],
            self.ticks_per_day,
        )

    def all_targets(self, user: np.ndarray) -> Targets:
        """All events of each given user as targets of one token, each user having at least one."""
        count = self.lengths[user]
        place = np.arange(count.max(initial=0))
        exists = place < count[:, None]
        event = self.offsets[user][:, None] + np.where(exists, place, 0)
        return Targets(
            item=torch.from_numpy(self.item[event]),
            feedback=torch.from_numpy(self.feedback[event].astype(np.int64)),
            exists=torch.from_numpy(exists),
            place=torch.zeros(len(user), dtype=torch.int64),
        )

    def windows(self, max_length: int) -> Windows:
        """Cuts every history into windows, see `windows_of`."""
        return windows_of(self.lengths, max_length)

    def training_batch(self, windows: Windows, horizon: int = 1) -> tuple[SequenceBatch, Targets]:
        """Inputs and targets of windows.

        Args:
            windows: Stretches of histories.
            horizon: Targets per token, ``K``; the later ones may lie beyond the window.

        Returns:
            [CLS] and all events but the last of each window, and what follows each token.
        """
        batch = self._batch(windows.user, windows.start, windows.stop - windows.start - 1)
        row = np.repeat(np.arange(len(windows)), windows.stop - windows.start)
        place = windows.start[row] + batch.position.numpy()
        following = self.offsets[windows.user][row] + place  # [T]
        event = following[:, None] + np.arange(horizon)
        exists = event < self.offsets[windows.user + 1][row][:, None]
        event = np.where(exists, event, following[:, None])
        return batch, Targets(
            item=torch.from_numpy(self.item[event]),
            feedback=torch.from_numpy(self.feedback[event].astype(np.int64)),
            exists=torch.from_numpy(exists),
            place=torch.from_numpy(place),
        )

    def inference_batch(
        self,
        user: np.ndarray,
        max_length: int,
        stop: np.ndarray | None = None,
        request: np.ndarray | None = None,
    ) -> SequenceBatch:
        """``max_length`` tokens, as in training: [CLS] and the newest of each user's events.

        Args:
            user: Users, int64 ``[B]``.
            max_length: Tokens of a sequence at most.
            stop: Take the newest of so many of each user's oldest events, int64 ``[B]``; None: of
                all.
            request: Time of each user's request, not before those events, int64 ``[B]``; None: that
                of the last event.
        """
        length = self.lengths[user] if stop is None else stop
        start = np.maximum(length - (max_length - 1), 0)
        batch = self._batch(user, start, length - start)
        has_events = length > 0
        waited: np.ndarray = np.zeros(len(user))  # from the last event to the request
        if request is not None:
            last = (self.offsets[user] + length - 1)[has_events]
            waited[has_events] = (request[has_events] - self.time[last]) / self.ticks_per_day
        batch.days_to_next[batch.last] = torch.from_numpy(waited)
        return batch

    def _batch(self, user: np.ndarray, start: np.ndarray, count: np.ndarray) -> SequenceBatch:
        row, position = ranges(np.zeros(len(user), dtype=np.int64), count + 1)
        is_event = position > 0
        first = (self.offsets[user] + start)[row[is_event]]
        event = first + position[is_event] - 1
        elapsed = self.time[event] - self.time[first]  # int64, exact
        # In training, a target follows the last token; at inference, the request replaces it.
        following = np.minimum(event + 1, len(self.time) - 1)
        to_next = self.time[following] - self.time[event]

        def with_cls(values: np.ndarray, at_cls: float, dtype: type) -> Tensor:
            column: np.ndarray = np.full(len(row), at_cls, dtype=dtype)
            column[is_event] = values
            return torch.from_numpy(column)

        return SequenceBatch(
            user=torch.from_numpy(user),
            item=with_cls(self.item[event], CLS, np.int64),
            feedback=with_cls(self.feedback[event], CLS, np.int64),
            days=with_cls(elapsed / self.ticks_per_day, 0.0, np.float64),
            days_to_next=with_cls(to_next / self.ticks_per_day, 0.0, np.float64),
            position=torch.from_numpy(position.astype(np.int32)),
            cu_seqlens=torch.from_numpy(np.concatenate([[0], np.cumsum(count + 1)])),
        )


def windows_of(lengths: np.ndarray, max_length: int) -> Windows:
    """Cuts histories of given lengths into windows, so that each event is a target exactly once.

    Windows end at the newest event and reach back ``max_length`` events at a time: with 7 events
    and ``max_length`` 3 they are ``0:1, 1:4, 4:7``.

    Args:
        lengths: Events of each user, int64 ``[U]``.
        max_length: Events of a window at most.
    """
    user, piece = ranges(np.zeros(len(lengths), dtype=np.int64), -(-lengths // max_length))
    stop = lengths[user] - piece * max_length
    return Windows(user, np.maximum(stop - max_length, 0), stop)


def ranges(start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenates ``start[i], start[i] + 1, ..., start[i] + count[i] - 1`` over all ``i``.

    Returns:
        The ``i`` of each number, and the numbers, int64 ``[sum(count)]``.
    """
    row = np.repeat(np.arange(len(count)), count)
    first = np.cumsum(count) - count
    return row, start[row] + np.arange(len(row)) - first[row]
