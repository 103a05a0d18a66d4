"""Hold-out splits: the last n events of each user, or everything after one moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from emorec.data.interactions import Interactions

__all__ = ["Split", "after_quantile", "last_n_per_user", "split_interactions"]


@dataclass(frozen=True)
class Split:
    """Three parts of a log that share vocabularies.

    The vocabularies hold the users and items that occur before the test part (train or valid);
    held-out rows of other users or items can be recommended by no model and are dropped.

    Attributes:
        train: What parameters are learned from.
        valid: Hold-out that chooses checkpoints and hyper-parameters.
        test: Hold-out that is looked at once.
        dropped: Hold-out rows of cold users or items.
    """

    train: Interactions
    valid: Interactions
    test: Interactions
    dropped: int = 0

    @property
    def history(self) -> Interactions:
        """Everything known before the test part: train, then valid."""
        both = [
            np.concatenate(pair)
            for pair in zip(_columns(self.train), _columns(self.valid), strict=True)
        ]
        return Interactions(*both, self.train.users, self.train.items, self.train.time_unit)


def _columns(interactions: Interactions) -> tuple[np.ndarray, ...]:
    return interactions.user, interactions.item, interactions.feedback, interactions.time
