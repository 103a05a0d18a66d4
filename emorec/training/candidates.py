"""The items that a training step's softmax sums over, where the catalogue is too large for all.

One set ``S`` of candidates per step is compared with all targets of a batch. Half the draws are
uniform over the catalogue, without replacement; half are train events, which gives popular items.
Item ``i``, with the share ``q_i`` of the events, is in ``S`` with probability

    pi_i = 1 - (1 - n / I) (1 - q_i)^m          after n uniform draws of I items and m events

and ``s_i - log pi_i`` takes the place of its score, in the sum and as a target:

    loss = log(sum over i in S and y of exp(s_i - log pi_i)) - (s_y - log pi_y)

Its minimum is that of the softmax over all items: if ``S`` is drawn without regard to ``y``, then
the probability that, of these items, ``y`` is the target is the softmax of ``log P(i) - log pi_i``.
The other targets of the batch are no candidates unless they are drawn. They would hold a user's own
items more often than ``pi`` says, and lower the scores of what suits the user.

References:
    S. Jean et al.: On Using Very Large Target Vocabulary for Neural Machine Translation, ACL 2015,
    arXiv:1412.2007. X. Yi et al.: Sampling-Bias-Corrected Neural Modeling for Large Corpus Item
    Recommendations, RecSys 2019.
"""

from __future__ import annotations

import numpy as np

from emorec.training.shares import Share

__all__ = ["LARGEST_WHOLE", "CandidateSampler", "num_drawn"]

LARGEST_WHOLE = 50_000
"""Items of the largest catalogue that ``loss.negatives = -1`` sums over as a whole."""

_DRAWN = 4096  # from larger ones


def num_drawn(negatives: int, num_items: int) -> int:
    """How many items are drawn per step; 0 for a softmax over the whole catalogue.

    Args:
        negatives: The setting ``loss.negatives``.
        num_items: Size of the catalogue; as many draws or more are the whole catalogue.
    """
    if negatives < 0:
        negatives = _DRAWN if num_items > LARGEST_WHOLE else 0
    return negatives if negatives < num_items else 0


class CandidateSampler:
    """Draws the candidates of each step; see the module's formula.

    Args:
        share: The train events.
        size: Draws per step, at least 1 and below ``I``; half of them, rounded down, are events.

    Attributes:
        log_probability: ``log pi``, float32 ``[I]``.
    """

    def __init__(self, share: Share, size: int) -> None:
        self._share = share
        self._num_events = size // 2
        self._num_uniform = size - self._num_events
        of_item = share.item_counts / share.num_events
        absent = (1 - self._num_uniform / share.num_items) * (1 - of_item) ** self._num_events
        self.log_probability = np.log1p(-absent).astype(np.float32)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Distinct items in ascending order, int64 ``[C]``, at most ``size``."""
        num_items, num_events = self._share.num_items, self._share.num_events
        uniform = rng.choice(num_items, self._num_uniform, replace=False, shuffle=False)
        events = rng.integers(num_events, size=self._num_events)
        return np.union1d(uniform, self._share.items_of(events))
