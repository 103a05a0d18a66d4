"""The events that each of several processes trains on: those of its own users.

A user belongs to one process, by a hash of the id. Of all others it knows how many events they
have, by which all processes draw the same windows, cutoffs, halves and samples from the same seed.
What a step needs to know of the rows of others is summed over the processes: how many targets they
have, and which items were drawn or are seen already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emorec.data.interactions import Interactions
from emorec.data.prepared import part_of
from emorec.data.sequences import EventSequences
from emorec.data.splits import Split
from emorec.data.vocabulary import Vocabulary
from emorec.processes import ALONE, World

__all__ = ["Share", "WholeBatch", "own_rows", "own_users", "shared_split", "summed"]

_COLUMNS = ("user", "item", "feedback", "time")
_NO_ROWS = np.zeros(0, dtype=np.int64)
_BLOCK = 1 << 20  # draws at a time: of eight bytes each, one is kept


def own_users(users: Vocabulary, world: World) -> np.ndarray | None:
    """Whose events this process encodes, by a hash of their ids, bool ``[U]``; None: all users'.

    The hash depends on nothing but the id: a user stays where it is when others come.
    """
    if world.size == 1:
        return None
    return part_of(users.ids, world.size) == world.rank


def own_rows(log: Interactions, is_own: np.ndarray | None) -> Interactions:
    """The rows of the users of `own_users`; the log itself if there are no others."""
    if is_own is None:
        return log
    rows = is_own[log.user]
    return log if rows.all() else log.select(rows)


def summed(world: World, values: np.ndarray) -> np.ndarray:
    """The sum of an array over all processes, element by element."""
    return values if world.size == 1 else world.sum(torch.tensor(values)).numpy()


def shared_split(split: Split | None, world: World) -> Split:
    """Sends each process its own users' part of a split that the first process has.

    Others have no test split, and no report: the first process evaluates.

    Args:
        split: The split; None in other processes.
        world: The processes.

    Returns:
        In the first process the split, in others their part of it, with the vocabularies of all.
    """
    if split is not None:
        if world.size > 1:
            _send(split, world)
        return split
    about = json.loads(world.first_says(""))
    users, items = Vocabulary(about["users"]), Vocabulary(about["items"])
    train, valid, targets = (
        Interactions(
            **{column: world.receive().numpy() for column in _COLUMNS},
            users=users,
            items=items,
            time_unit=about["time_unit"],
        )
        for _ in range(3)
    )
    return Split(train, valid, valid.select(_NO_ROWS), about["dropped"], None, targets)


def _send(split: Split, world: World) -> None:
    train = split.train
    about: dict[str, Any] = {"users": train.users.ids, "items": train.items.ids}
    about |= {"time_unit": train.time_unit, "dropped": split.dropped}
    world.first_says(json.dumps(about))
    owner = part_of(train.users.ids, world.size)
    for rank in range(1, world.size):
        for log in (train, split.valid, split.valid_targets):
            rows = np.flatnonzero(owner[log.user] == rank)
            for column in _COLUMNS:
                world.send(torch.from_numpy(getattr(log, column)[rows]), rank)


@dataclass(frozen=True)
class WholeBatch:
    """The batch of all processes, of which one has the rows of its own users.

    Attributes:
        user: User of each token, int64 ``[T]``.
        own: The tokens of this process, ascending, int64 ``[N]``.
        world: The processes.
    """

    user: np.ndarray
    own: Tensor
    world: World

    def to(self, device: torch.device | str) -> WholeBatch:
        """The same with tokens on another device."""
        return WholeBatch(self.user, self.own.to(device), self.world)

    def spread(self, mask: Tensor) -> Tensor:
        """A mask of all tokens, bool ``[T, K]``, from each process's mask of its own ``[N, K]``."""
        whole = mask.new_zeros(len(self.user), mask.shape[1], dtype=torch.uint8)
        whole[self.own] = mask.to(torch.uint8)
        return self.world.sum(whole).bool()

    def targets(self, item: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The targets of all tokens, from each process's own.

        Args:
            item: Targets of this process's tokens, int64 ``[N, K]``.
            wanted: Which of them count, bool ``[N, K]``.

        Returns:
            Token and item of each one that counts, by token, int64 ``[M]``.
        """
        pairs = torch.stack([self.own[wanted.nonzero()[:, 0]], item[wanted]], dim=1).int()
        token, items = torch.cat(self.world.gather(pairs)).long().unbind(1)
        order = token.argsort(stable=True)
        return token[order], items[order]


@dataclass(frozen=True)
class Share:
    """A process's events, and what it knows of those of others.

    Attributes:
        events: The events of its own users; others have none.
        lengths: Events of every user, in all processes, int64 ``[U]``.
        item_counts: Events of every item, in all processes, int64 ``[I]``.
        is_own: Which users are its own, bool ``[U]``; None: all.
        world: The processes.
    """

    events: EventSequences
    lengths: np.ndarray
    item_counts: np.ndarray
    is_own: np.ndarray | None
    world: World

    @classmethod
    def of(
        cls,
        events: EventSequences,
        num_items: int,
        users: Vocabulary | None = None,
        world: World = ALONE,
    ) -> Share:
        """The share of a process.

        Args:
            events: Events of its own users; if there are others, they are left out.
            num_items: Size of the catalogue, ``I``.
            users: Ids of the users; of several processes, they decide who belongs to which.
            world: The processes.
        """
        is_own = None if users is None else own_users(users, world)
        if is_own is not None:
            rows = np.repeat(is_own, events.lengths)
            events = events if rows.all() else events.select(rows)
        counts = np.bincount(events.item, minlength=num_items)
        return cls(events, summed(world, events.lengths), summed(world, counts), is_own, world)

    @property
    def num_events(self) -> int:
        """Events of all users."""
        return int(self.lengths.sum())

    @property
    def num_items(self) -> int:
        """Size of the catalogue."""
        return len(self.item_counts)

    @cached_property
    def _stops(self) -> np.ndarray:
        """One past each user's last event among those of all users, int64 ``[U]``."""
        return np.cumsum(self.lengths)

    def items_of(self, event: np.ndarray) -> np.ndarray:
        """Items of some events, int64 ``[M]``.

        Args:
            event: Their places among the events of all users, by user, then time, int64 ``[M]``.
        """
        if self.is_own is None:
            return self.events.item[event]
        user = np.searchsorted(self._stops, event, side="right")
        mine = np.flatnonzero(self.is_own[user])
        user, event_of_user = user[mine], event[mine] - (self._stops - self.lengths)[user[mine]]
        items = np.zeros(len(event), dtype=np.int64)
        items[mine] = self.events.item[self.events.offsets[user] + event_of_user]
        return summed(self.world, items)

    def halves(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws a half of every user's items at random.

        Returns:
            Which of this process's events are of such an item, bool ``[N]``; and the users, of all
            processes, who have other items, ascending.
        """
        user = np.repeat(np.arange(len(self.lengths)), self.events.lengths)
        pairs, pair = np.unique(user * self.num_items + self.events.item, return_inverse=True)
        own_counts = np.bincount(pairs // self.num_items, minlength=len(self.lengths))
        counts = summed(self.world, own_counts)
        starts = np.cumsum(counts) - counts
        is_known = np.concatenate([*_halves(rng, int(counts.sum()))])
        with_items = np.flatnonzero(counts)
        knows_all = np.logical_and.reduceat(is_known, starts[with_items])
        place = np.arange(len(pairs)) + np.repeat(
            starts - (np.cumsum(own_counts) - own_counts), own_counts
        )
        return is_known[place][pair], with_items[~knows_all]

    def part_of(self, user: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, WholeBatch | None]:
        """The rows of a batch that this process has.

        Args:
            user: User of each row, int64 ``[B]``.
            tokens: Tokens of each row, int64 ``[B]``.

        Returns:
            The rows, and the batch that they are part of; None if they are all.
        """
        if self.is_own is None:
            return np.arange(len(user)), None
        mine = self.is_own[user]
        own = torch.from_numpy(np.repeat(mine, tokens)).nonzero()[:, 0]
        return np.flatnonzero(mine), WholeBatch(np.repeat(user, tokens), own, self.world)


def _halves(rng: np.random.Generator, number: int) -> Iterator[np.ndarray]:
    """As many draws of true or false, block by block; they do not depend on the blocks' size."""
    for start in range(0, max(number, 1), _BLOCK):
        yield rng.random(min(_BLOCK, number - start)) < 0.5
