"""Metrics of lists in which dislikes count against a list.

All take the same two tensors and return one float64 value per user:

* ``listed`` ``[U, k]``, integer: the user's held-out `Feedback` on the item at rank r (column
  r - 1, best first), `UNKNOWN` (-1) where the item is not held out or the place is empty;
* ``held_out`` ``[U, 4]``, integer: held-out items of the user by kind of feedback, listed or not.

Explicit feedback has grade 2 and implicit feedback grade 1; grade g weighs ``2^g - 1``: 3 and 1.
"""

from __future__ import annotations

import torch

from emorec.data.feedback import Feedback
from emorec.evaluation.held_out import UNKNOWN

__all__ = ["dislike_rate", "ndcl", "signed_ndcg"]

_EXPLICIT, _IMPLICIT = 3.0, 1.0  # 2^grade - 1
# By feedback; the last stands for UNKNOWN, which as an index counts from the end.
_GAINS = torch.tensor([_EXPLICIT, _IMPLICIT, -_IMPLICIT, -_EXPLICIT, 0.0], dtype=torch.float64)


def dislike_rate(listed: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
    """Share of the list's k places that hold a held-out dislike: ``disliked / k``.

    Unlike the recall of dislikes it is defined (as 0) for users without a held-out dislike, so that
    its mean is the probability that a place of a list holds a held-out dislike.

    Args:
        listed: Held-out feedback at each rank, integer ``[U, k]``.
        held_out: Held-out items by kind of feedback, integer ``[U, 4]``.

    Returns:
        float64 ``[U]`` in [0, 1], lower is better; NaN for a user without held-out items.

    Raises:
        ValueError: If the shapes, types or values are wrong.
    """
    _check(listed, held_out)
    values = (listed >= Feedback.IMPLICIT_NEGATIVE).double().mean(dim=1)
    return values.masked_fill(held_out.sum(dim=1) == 0, torch.nan)


def ndcl(listed: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
    """Normalised discounted cumulative loss: how high in the list the dislikes stand.

    ``sum over ranks r with a dislike of (2^g - 1) / log2(1 + r)``, g being 2 for explicit and 1
    for implicit negative feedback, over the same sum for the worst list of k items: all of the
    user's dislikes from the top down, explicit ones first.

    Args:
        listed: Held-out feedback at each rank, integer ``[U, k]``.
        held_out: Held-out items by kind of feedback, integer ``[U, 4]``.

    Returns:
        float64 ``[U]`` in [0, 1], lower is better; 0 where no dislike is listed, NaN for a user
        without a held-out dislike.

    Raises:
        ValueError: If the shapes, types or values are wrong.

    References:
        E. Frolov and I. Oseledets, "Fifty Shades of Ratings: How to Benefit from a Negative
        Feedback in Top-N Recommendations Tasks", RecSys 2016.
    """
    _check(listed, held_out)
    loss = _discounted_sum((-_gains(listed)).clamp(min=0))
    worst = -_extremes(held_out, listed.shape[1])[1]
    # Rounding must not lift the worst list above 1; 0 / 0 is the NaN that is wanted.
    return (loss / worst).clamp(max=1)


def signed_ndcg(listed: torch.Tensor, held_out: torch.Tensor) -> torch.Tensor:
    """Discounted gain with losses, between the user's worst list and the best: 0 to 1.

    ``DCG = sum over ranks r of gain_r / log2(1 + r)`` with gains 3 for explicit and 1 for implicit
    positive feedback, -1 for implicit and -3 for explicit negative feedback, and 0 for everything
    else; then ``(DCG - worst) / (best - worst)``. The best list of k items has the user's likes
    from the top down, explicit ones first, the worst one the dislikes. Each is cut at k and filled
    up with unknown items, so a user with one like reaches 1, unlike in `metrics.ndcg`.

    A list without any held-out item has DCG 0. That is 0 for a user with likes alone, 1 for one
    with dislikes alone, and ``-worst / (best - worst)`` in between: compare models on the same
    users, not users with each other.

    Args:
        listed: Held-out feedback at each rank, integer ``[U, k]``.
        held_out: Held-out items by kind of feedback, integer ``[U, 4]``.

    Returns:
        float64 ``[U]`` in [0, 1], higher is better; NaN for a user without held-out items.

    Raises:
        ValueError: If the shapes, types or values are wrong.

    References:
        L. Gienapp, M. Fröbe, M. Hagen and M. Potthast, "The Impact of Negative Relevance
        Judgments on NDCG", CIKM 2020.
    """
    _check(listed, held_out)
    best, worst = _extremes(held_out, listed.shape[1])
    # Rounding must not carry a list beyond the extremes; 0 / 0 is the NaN that is wanted.
    return ((_discounted_sum(_gains(listed)) - worst) / (best - worst)).clamp(0, 1)


def _gains(listed: torch.Tensor) -> torch.Tensor:
    return _GAINS.to(listed.device)[listed.long()]


def _discounted_sum(gains: torch.Tensor) -> torch.Tensor:
    return (gains * _discounts(gains.shape[1], gains.device)).sum(dim=1)


def _discounts(k: int, device: torch.device) -> torch.Tensor:
    return 1 / torch.log2(1 + torch.arange(1, k + 1, dtype=torch.float64, device=device))


def _extremes(held_out: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed DCG of each user's best list and of the worst, ``[U]`` each."""
    discounts = _discounts(k, held_out.device)
    of_first = torch.cat([discounts.new_zeros(1), discounts.cumsum(dim=0)])  # of n places, [k + 1]
    likes, plays, skips, dislikes = held_out.long().clamp(max=k).unbind(dim=1)

    def best(explicit: torch.Tensor, implicit: torch.Tensor) -> torch.Tensor:
        upper, both = of_first[explicit], of_first[(explicit + implicit).clamp(max=k)]
        return _EXPLICIT * upper + _IMPLICIT * (both - upper)

    return best(likes, plays), -best(dislikes, skips)


def _check(listed: torch.Tensor, held_out: torch.Tensor) -> None:
    kinds = len(Feedback)
    for name, tensor in (("listed", listed), ("held_out", held_out)):
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} must be integer, got {tensor.dtype}")
    if listed.ndim != 2 or listed.shape[1] == 0:
        raise ValueError(f"listed must be [U, k] with k >= 1, got {list(listed.shape)}")
    if held_out.shape != (len(listed), kinds):
        raise ValueError(
            f"held_out must be [U, {kinds}] = [{len(listed)}, {kinds}], got {list(held_out.shape)}"
        )
    wrong = (listed < UNKNOWN) | (listed >= kinds)
    if wrong.any():
        raise ValueError(
            f"listed holds {int(listed[wrong][0])}, must be a kind of feedback, 0 .. {kinds - 1}, "
            f"or {UNKNOWN}"
        )
    for kind in Feedback:
        over = (listed == kind).sum(dim=1) > held_out[:, kind]
        if over.any():
            row = int(over.nonzero()[0])
            raise ValueError(
                f"row {row}: {int((listed[row] == kind).sum())} places hold {kind.label}, "
                f"but {int(held_out[row, kind])} such items are held out"
            )
