"""Responsiveness: how lists change after a user dislikes the item on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from emorec.data.feedback import Feedback
from emorec.data.interactions import Interactions
from emorec.evaluation.scores import Scorer, as_user_indices
from emorec.evaluation.top_k import TopK, recommend_top_k

__all__ = ["evaluate_responsiveness", "responsiveness", "with_events"]


def responsiveness(
    before: TopK,
    after: TopK,
    items: torch.Tensor | np.ndarray,
    neighbours: sparse.csr_matrix,
    k: int,
    control: TopK | None = None,
) -> pd.DataFrame:
    r"""How much of an item's neighbourhood leaves the lists after an event, and how much else.

    User u has an event with item x. B is u's list before, without x; A the list after the event; C
    the control: the list that the same user gets without that event. x is left out
    of all three, because every list loses it. N is the neighbourhood of x. Then, for each user,

        left           = |B & N \ A| / |B & N|
        left_control   = |B & N \ C| / |B & N|
        responsiveness = left - left_control
        locality       = |B & A \ N| / |B \ N|

    Without ``control`` C is B itself: nothing happens to u, and a scorer that gives the same
    scores when asked again changes nothing. That is the no-op, and ``left_control`` is 0. Lists
    after another event, such as a like of x, answer another question: how much of what leaves
    does so because of the event's polarity, and not because any event moves the list?

    A scorer that ignores the event has responsiveness 0 and locality 1; one that draws lists
    afresh has high responsiveness and low locality. Only both together mean something. Both can be
    1: what takes the neighbourhood's places need not push anything out.

    Args:
        before: Lists of at least k + 1 items, or k that x is not in. Row i is the i-th user's.
        after: Lists of at least k items after the event, x not among the first k.
        items: Item x of each user, integer ``[U]``.
        neighbours: The neighbourhoods, CSR ``[num_items, num_items]``: N is what row x stores as
            non-zero, x itself left out. It must not change with the event; a matrix such as the
            ``similarity`` of an `ItemKNN` of the training data is meant.
        k: How many items of each list count.
        control: Lists of the control, like ``after`` or ``before``; None for the no-op.

    Returns:
        One row per list, float64: ``responsiveness`` in [-1, 1], ``left``, ``left_control`` and
        ``locality`` in [0, 1], and ``neighbours``, the size of B & N. NaN in the first three where
        no neighbour was listed, for nothing could leave, and in ``locality`` where all were
        neighbours.

    Raises:
        ValueError: If a list is too short or holds x, or the sizes do not fit.

    References:
        In the spirit of Y. Wang et al., "Learning from Negative User Feedback and Measuring
        Responsiveness for Sequential Recommenders", RecSys 2023.
    """
    shown = np.asarray(items)
    num_items = neighbours.shape[0]
    if neighbours.shape != (num_items, num_items):
        raise ValueError(f"neighbours must be square, got {list(neighbours.shape)}")
    if len(shown) and (shown.min() < 0 or shown.max() >= num_items):
        wrong = shown[(shown < 0) | (shown >= num_items)][0]
        raise ValueError(f"items holds {wrong}, must be in 0 .. {num_items - 1}")
    base = _without("before", before, shown, k)  # [U, k]
    stays = _in_lists(base, _without("after", after, shown, k, may_hold=False))
    kept = (
        np.ones_like(stays)
        if control is None
        else _in_lists(
            base, _without("control", control, shown, k, may_hold=control.items.shape[1] > k)
        )
    )
    is_item = base >= 0
    near = _is_stored(neighbours[shown], base) & is_item
    left = _share(near & ~stays, near)
    left_control = _share(near & ~kept, near)
    return pd.DataFrame(
        {
            "responsiveness": left - left_control,
            "left": left,
            "left_control": left_control,
            "locality": _share(is_item & ~near & stays, is_item & ~near),
            "neighbours": near.sum(axis=1).astype(np.float64),
        }
    )


def evaluate_responsiveness(
    scorer_of: Callable[[Interactions], Scorer],
    history: Interactions,
    users: torch.Tensor | np.ndarray,
    neighbours: sparse.csr_matrix,
    k: int,
    chunk_size: int | None = None,
    plays: int = 0,
) -> pd.DataFrame:
    """Lets each user dislike the item on top of their list, and compares the lists.

    All users do so at once. Where a model passes messages between users, what the others said is
    part of the effect; take few of many users to keep that part small.

    Args:
        scorer_of: Makes a trained model's scorer for a history, for example
            ``lambda log: ModelScorer(model, log)``. Nothing may be learned from that history.
        history: The events before.
        users: User indices, int64 ``[U]``, distinct.
        neighbours: See `responsiveness`.
        k: Length of the lists.
        chunk_size: Users scored at a time, see `recommend_top_k`.
        plays: Events that follow the dislike before the lists are made: the user plays (implicit
            positive feedback) the items that came after the first k + 1, in order. The control has
            the same plays.

    Returns:
        What `responsiveness` returns for an explicit dislike against the no-op, by user, and
        ``over_like``: the responsiveness with an explicit like of the same item as the control.
        Users without any candidate, or without items to play, are left out.

    Raises:
        ValueError: If a user is out of range or occurs twice.
    """
    index = as_user_indices(users, history.num_users)
    if len(np.unique(index)) != len(index):
        raise ValueError("users must be distinct: each dislikes one item")
    size = k + 1 + plays
    shown = recommend_top_k(scorer_of(history), index, history, size, chunk_size=chunk_size)
    has_list = shown.items[:, 0] >= 0
    if plays:
        has_list &= shown.items[:, -1] >= 0
    items = shown.items[has_list].numpy()
    before = TopK(shown.items[has_list, : k + 1], shown.scores[has_list, : k + 1])
    index, top = index[has_list.numpy()], items[:, 0]

    def lists_after(feedback: Feedback | None) -> TopK:
        log = history if feedback is None else with_events(history, index, top, feedback)
        for played in items[:, k + 1 :].T:
            log = with_events(log, index, played, Feedback.IMPLICIT_POSITIVE)
        length = k + 1 if feedback is None else k
        return recommend_top_k(scorer_of(log), index, log, length, chunk_size=chunk_size)

    disliked, liked = map(lists_after, (Feedback.EXPLICIT_NEGATIVE, Feedback.EXPLICIT_POSITIVE))
    control = lists_after(None) if plays else None
    result = responsiveness(before, disliked, top, neighbours, k, control)
    against_like = responsiveness(before, disliked, top, neighbours, k, control=liked)
    result["over_like"] = against_like["responsiveness"]
    return result.set_index(pd.Index(index, name="user"))


def with_events(
    history: Interactions,
    users: np.ndarray,
    items: np.ndarray,
    feedback: Feedback = Feedback.EXPLICIT_NEGATIVE,
) -> Interactions:
    """A history to which each user adds one event, just after their last.

    Args:
        history: The log.
        users: User indices, int64 ``[U]``, distinct.
        items: The item of each user's event, int64 ``[U]``.
        feedback: The kind of feedback of all of them.

    Returns:
        The rows of ``history`` and then one per user, one tick of ``time_unit`` after the user's
        last event; for a user without one, after the last event of all. Without times, at the end.

    Raises:
        ValueError: If an index is out of range or the log is empty.
    """
    if len(history) == 0:
        raise ValueError("the log is empty: there is no time to add an event after")
    index = as_user_indices(users, history.num_users)
    never = np.iinfo(np.int64).min
    last = np.full(history.num_users, never)
    np.maximum.at(last, history.user, history.time)
    last[last == never] = history.time.max()
    return replace(
        history,
        user=np.concatenate([history.user, index]),
        item=np.concatenate([history.item, np.asarray(items)]),
        feedback=np.concatenate([history.feedback, np.full(len(index), feedback, np.int8)]),
        time=np.concatenate([history.time, last[index] + (history.time_unit != "none")]),
    )


def _without(name: str, topk: TopK, items: np.ndarray, k: int, may_hold: bool = True) -> np.ndarray:
    """The first k items of each list but the user's own of ``items``, int64 ``[U, k]``."""
    lists = topk.items.cpu().numpy()
    if len(lists) != len(items):
        raise ValueError(f"got {len(lists)} lists {name} for {len(items)} items")
    if not 1 <= k <= lists.shape[1]:
        raise ValueError(f"k must be in 1 .. {lists.shape[1]} (the length of {name}), got {k}")
    is_own = lists[:, : k + may_hold] == items[:, None]
    if is_own.any() and (lists.shape[1] == k or not may_hold):
        row = int(np.flatnonzero(is_own.any(axis=1))[0])
        raise ValueError(
            f"list {row} {name} holds item {items[row]} itself; make lists {name} "
            + ("of k + 1 items" if may_hold else "with the item seen")
        )
    order = np.argsort(is_own, axis=1, kind="stable")  # the own item last, all else as it was
    return np.take_along_axis(lists, order, axis=1)[:, :k]


def _in_lists(items: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Whether each item ``[U, k]`` is in the list of its row ``[U, k]``."""
    return (items[:, :, None] == lists[:, None, :]).any(axis=2)


def _is_stored(rows: sparse.csr_matrix, columns: np.ndarray) -> np.ndarray:
    """Whether row i of a matrix is non-zero at each of ``columns[i]``, bool ``[U, k]``."""
    row, column = rows.nonzero()
    width = rows.shape[1]
    return np.isin(np.arange(len(columns))[:, None] * width + columns, row * width + column)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Row by row ``part / whole``, NaN where the whole is empty."""
    parts, wholes = part.sum(axis=1), whole.sum(axis=1)
    return np.divide(parts, wholes, out=np.full(len(part), np.nan), where=wholes > 0)
