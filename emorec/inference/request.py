"""A request: users by their own ids, the events that are known then, and who has any."""

from __future__ import annotations

from typing import Any

import numpy as np

from emorec.baselines import ItemPrior
from emorec.data.interactions import Interactions
from emorec.data.requests import until
from emorec.evaluation.scores import Scorer
from emorec.inference.ranking import ModelScorer
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.texts import plain

__all__ = ["Request"]


class Request:
    """Users who ask for lists or scores, with what a model computes these from.

    Args:
        model: The model.
        users: The users' own ids, ``B``; one may occur again.
        history: The events that the model uses; users with an event up to the time of their request
            are served by the model.
        known: The history and, possibly, events of other users, who come after those of the history
            in its vocabulary. The model does not serve them, unknown ids and users without such an
            event.
        times: Time of each user's request, of all users in ``known``, int64 ``[U]``. The users'
            later events are left out.
        device: Where to compute.

    Attributes:
        index: Index of each user in ``known``, int64 ``[B]``; -1 for unknown ids.
        is_served: Whether the model serves each user, bool ``[B]``.
        history: The events that the model uses, up to the time of the request. If users are
            independent in the model, those of the served users alone.
        known: The argument.
        times: The argument.
        scorer: The model's scorer; None if it serves nobody.
    """

    def __init__(
        self,
        model: Recommender,
        users: list[Any],
        history: Interactions,
        known: Interactions,
        times: np.ndarray,
        device: str = "cpu",
    ) -> None:
        self.model, self.users, self.known, self.times = model, users, known, times
        self.index = known.users.indices(users)
        self._in_history = (self.index >= 0) & (self.index < history.num_users)
        encoder = model.graph_encoder
        if encoder is None or not encoder.needs_full_graph:
            # Other users have no effect on this model.
            history = history.of_users(self.index[self._in_history])
        self.history = until(history, times)
        self.is_served = self._in_history & np.isin(self.index, self.history.user)
        self.scorer: ModelScorer | None = None
        if self.is_served.any():
            self.scorer = ModelScorer(model, self.history, device, requests=times)

    @property
    def predicts_liked(self) -> bool:
        """Whether the model predicts the polarity of items."""
        return isinstance(self.model.polarity, ItemPolarity)

    @property
    def known_until(self) -> Interactions:
        """The known events of all users, up to the time of their requests."""
        return until(self.known, self.times)

    def item_prior(self) -> Scorer:
        """Predicts P(positive) for the users whom the model does not serve."""
        return ItemPrior().fit(self.known)

    def whom_not(self) -> str | None:
        """The users whom the model does not serve, for a message; None if there are none."""
        others = np.flatnonzero(~self.is_served)
        if not len(others):
            return None
        first = plain(self.users[others[0]])
        whom = f"user {first!r}"
        if len(self.users) > 1:
            whom = f"{len(others):,} of {len(self.users):,} users, such as {first!r}"
        when = " up to the time of the request" if self._in_history[others].any() else ""
        return whom + when
