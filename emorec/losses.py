"""Losses of ranking and of polarity; the softmax over a catalogue is `emorec.ops.softmax_loss`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["bpr_loss", "polarity_loss"]


def bpr_loss(target: Tensor, others: Tensor) -> Tensor:
    """Bayesian personalised ranking: ``-mean_n log sigmoid(s_target - s_n)``.

    Args:
        target: Score of the item that was chosen, ``[T]``.
        others: Scores of the items it is compared with, ``[T, N]``; -inf leaves one out.

    Returns:
        ``[T]``.

    References:
        S. Rendle et al.: BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009,
        arXiv:1205.2618.
    """
    return -F.logsigmoid(target[:, None] - others).mean(-1)


def polarity_loss(logit: Tensor, is_reached: Tensor) -> Tensor:
    """Binary cross-entropy of "the event is as positive as this, or more", summed over levels.

    Args:
        logit: Log-odds at each of ``M`` levels, ``[T, M]``.
        is_reached: Whether the event was as positive, bool ``[T, M]``.

    Returns:
        ``[T]``.
    """
    loss = F.binary_cross_entropy_with_logits(logit, is_reached.to(logit.dtype), reduction="none")
    return loss.sum(-1)
