"""Filters: the items that lists may hold, for all users or for each."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from emorec.data.vocabulary import Vocabulary
from emorec.texts import count, plain, shortened

__all__ = ["Filters", "ItemIds"]

ItemIds = Iterable[Any] | Mapping[Any, Iterable[Any]]
"""Item ids for all users, or a mapping from each user's id to item ids."""


class Filters:
    """Which items the lists of some users may hold, by ids.

    Args:
        users: The users' own ids, ``B``; one may occur again.
        catalogue: The items' own ids, ``I``.
        items: Only these may be listed; a mapping needs an entry for each user. None: all items.
        exclude: These may not be listed; a mapping needs no entry for a user. None: no item.

    Warns:
        UserWarning: If item ids are unknown; they are left out.

    Raises:
        ValueError: If ``items`` or ``exclude`` are not ids, ``items`` is empty or lacks a user, or
            no id of either is known.
    """

    def __init__(
        self,
        users: list[Any],
        catalogue: Vocabulary,
        items: ItemIds | None = None,
        exclude: ItemIds | None = None,
    ) -> None:
        self._num_items = len(catalogue)
        self._allowed = self._excluded = None
        if items is not None:
            self._allowed = _listed("items", items, users, catalogue)
        if exclude is not None:
            self._excluded = _listed("exclude", exclude, users, catalogue)

    def __call__(self, places: np.ndarray) -> Tensor:
        """The items that may be listed, bool ``[N, I]``, for users by their place in ``users``."""
        mask = np.ones((len(places), self._num_items), dtype=bool)
        if self._allowed is not None:
            mask &= _rows(self._allowed, places)
        if self._excluded is not None:
            mask &= ~_rows(self._excluded, places)
        return torch.from_numpy(mask)


_Listed = tuple[sparse.csr_matrix, np.ndarray]
"""Lists of items as rows of a bool matrix ``[R, I]``, and each user's row, -1 for none, ``[B]``."""


def _rows(listed: _Listed, places: np.ndarray) -> np.ndarray:
    matrix, row = listed
    row = row[places]
    if matrix.shape[0] == 1:
        return matrix.toarray() & (row >= 0)[:, None]
    mask = matrix[np.maximum(row, 0)].toarray()
    mask[row < 0] = False
    return mask


def _listed(name: str, given: ItemIds, users: list[Any], catalogue: Vocabulary) -> _Listed:
    if isinstance(given, Mapping):
        row = _row_of_each(name, list(given), users)
        lists = [_ids(f"{name} of user {plain(user)!r}", ids) for user, ids in given.items()]
    else:
        row = np.zeros(len(users), dtype=np.int64)
        lists = [_ids(name, given)]
    ids = np.fromiter(chain.from_iterable(lists), dtype=object)
    if not len(ids) and name == "items":
        raise ValueError("items is empty, so that no item may be listed; None allows all items")
    index = catalogue.indices(ids)
    _warn_of_unknown(name, ids[index < 0], bool((index < 0).all()))
    owner = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
    cells = np.ones(int((index >= 0).sum()), bool), (owner[index >= 0], index[index >= 0])
    return sparse.csr_matrix(cells, shape=(max(len(lists), 1), len(catalogue))), row


def _row_of_each(name: str, keys: list[Any], users: list[Any]) -> np.ndarray:
    """The entry of a mapping that is each user's, int64 ``[B]``; -1 where there is none."""
    try:
        row = Vocabulary(keys).indices(users)
    except ValueError as error:
        raise ValueError(f"{name}: the users of the mapping: {error}") from error
    without = np.flatnonzero(row < 0)
    if len(without) and name == "items":
        raise ValueError(
            f"items has no entry for {count(len(without), 'user')}, such as "
            f"{plain(users[without[0]])!r}; give each user a list of item ids, or one list for all"
        )
    return row


def _ids(name: str, ids: Any) -> list[Any]:
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable) or hasattr(ids, "columns"):
        raise ValueError(
            f"{name} must be a list of item ids, or a mapping of user ids to such lists, got "
            f"{type(ids).__name__} {shortened(ids)!r}"
        )
    return list(ids)


def _warn_of_unknown(name: str, unknown: np.ndarray, is_all: bool) -> None:
    """Says how many ids are unknown, and raises an error if all are."""
    distinct = dict.fromkeys(str(each) for each in unknown)
    if not distinct:
        return
    number, first = len(distinct), shortened(unknown[0])
    if is_all:
        raise ValueError(
            f"{name}: none of the {count(number, 'item id')}, such as {first!r}, occurs in the "
            "train events; give ids of items as in the log, or cold=True (--cold) for cold items"
        )
    warnings.warn(
        f"{name}: {count(number, 'item id')}, such as {first!r}, "
        f"{'is' if number == 1 else 'are'} left out: unknown to the model",
        stacklevel=6,
    )
