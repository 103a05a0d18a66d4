"""The ranking: the whole formula by which a trained model orders the catalogue for a user.

With the aversion ``a``, the embedding ``e_i`` of item ``i`` and the user's state ``s``,

    ranking_i =   <s, e_i> + bias_i                   next item
                + a log P(positive | taste, i)        liked
                - a [i is near a recent dislike]      recent dislikes
                + weight * neighbour score_i          neighbours

    s = (1 - min(a, 1)) * state after the last event
        + min(a, 1) * state after the last event that is not an explicit dislike

Recent dislikes are the explicit dislikes after that last other event. At aversion 0 an explicit
dislike is an event like any other, because people who reject an item often see a similar one next.
Above 0 a dislike is an answer to a list: it does not move the state, and the items near to it lose
``a``. The taste depends on all events.

Which terms a model has depends on its configuration: without aversion only the next item and the
neighbours are left, and most of the paper's presets have the first term alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph
from emorec.data.interactions import Interactions
from emorec.data.requests import newest_time
from emorec.data.sequences import CLS, EventSequences, SequenceBatch
from emorec.inference.neighbours import Neighbours
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity

__all__ = ["NUM_NEAR", "ModelScorer", "Terms", "UserStates", "near_items"]

NUM_NEAR = 16
"""Items near to a dislike: the item itself and the fifteen that are most like it."""


class Terms(NamedTuple):
    """The terms of the ranking, each ``[B, I]`` and multiplied by its weight; None if absent."""

    next_item: Tensor
    liked: Tensor | None
    recent_dislikes: Tensor | None
    neighbours: Tensor | None

    def total(self) -> Tensor:
        """Their sum, ``[B, I]``: what lists are ranked by."""
        total = self.next_item
        for term in self[1:]:
            total = total if term is None else total + term
        return total


class UserStates(NamedTuple):
    """What a model computes from users' events, one row per user.

    Attributes:
        next: State after the last event, ``[B, D]``.
        before_dislikes: State after the last event that is not an explicit dislike, ``[B, D]``.
        taste: What the polarity head predicts from, ``[B, ...]``; None without a head.
    """

    next: Tensor
    before_dislikes: Tensor
    taste: Tensor | None


class ModelScorer:
    """Scores the catalogue for users, from a trained model and a history.

    The history may be newer than the model's training.

    Args:
        model: The model; used in evaluation mode.
        history: All events that the scores may depend on.
        device: Where to compute.
        events: The history as sequences, if it is built already.
        requests: Time of each user's request, not before the user's last event, in the history's
            unit, int64 ``[U]``; None: that of the newest event of all. It matters to models that
            encode it (``sequence.request_time``).
    """

    def __init__(
        self,
        model: Recommender,
        history: Interactions,
        device: str = "cpu",
        events: EventSequences | None = None,
        requests: np.ndarray | None = None,
    ) -> None:
        self._model, self._device = model, device
        self._events = EventSequences.build(history) if events is None else events
        self._requests = newest_time(history) if requests is None else requests
        self._num_before_dislikes = _events_before_dislikes(self._events)
        self._source = model.graph_source(self._events, history.num_items)
        self._full_graph = None
        if self._source is not None and self._source.full:
            users = np.arange(history.num_users)
            self._full_graph = self._source.graph(users, self._events.lengths).to(device)

    def __call__(self, users: Tensor) -> Tensor:
        """Scores of all items, ``[B, I]`` on the CPU, for user indices ``[B]``."""
        return self.terms(users).total()

    @torch.inference_mode()
    def terms(self, users: Tensor) -> Terms:
        """The terms of the ranking apart, on the CPU, for user indices ``[B]``."""
        model, aversion = self._model, self._model.aversion
        batch = self._sequences(users)
        states = self._states(users, batch)
        state = states.next
        liked = near = neighbours = None
        if aversion:
            assert isinstance(model.polarity, ItemPolarity) and states.taste is not None
            state = torch.lerp(states.next, states.before_dislikes, min(aversion, 1.0))
            liked = (aversion * model.polarity.log_probability(states.taste)).cpu()
            near = -aversion * self._is_near_dislikes(users, batch).cpu()
        if model.neighbours is not None:
            assert isinstance(model.neighbours, Neighbours)
            neighbours = (model.neighbours.weight * model.neighbours(batch.to(self._device))).cpu()
        next_item = model.all_scores(state).cpu()
        return Terms(next_item, liked, near, neighbours)

    @torch.inference_mode()
    def states(self, users: Tensor) -> UserStates:
        """What the model computes from the users' events.

        Without aversion the ranking does not need the state before recent dislikes; it is the state
        after the last event then.
        """
        return self._states(users, self._sequences(users))

    @torch.inference_mode()
    def neighbour_scores(self, users: Tensor) -> Tensor:
        """Neighbour scores before their weight, ``[B, I]`` on the CPU.

        Raises:
            ValueError: If the model has no neighbours.
        """
        if self._model.neighbours is None:
            raise ValueError("this model has no neighbours: model.neighbours is 0")
        return self._model.neighbours(self._sequences(users).to(self._device)).cpu()

    @torch.inference_mode()
    def polarity(self, users: Tensor) -> Tensor:
        """P(positive | user, item) of all items, ``[B, I]`` on the CPU, for user indices ``[B]``.

        Raises:
            ValueError: If the model does not predict the polarity of items.
        """
        head = self._model.polarity
        if not isinstance(head, ItemPolarity):
            raise ValueError(
                "this model does not predict the polarity of items: model.polarity is not 'item'"
            )
        batch, graph, user_node = self._inputs(users, self._sequences(users))
        vector = self._model.graph_vector(batch, graph, user_node)
        taste = head.taste(None, vector, batch)[batch.last]  # no state: half of the work is saved
        return head.log_probability(taste).exp().cpu()

    def _states(self, users: Tensor, batch: SequenceBatch) -> UserStates:
        found = self._model(*self._inputs(users, batch))
        last = batch.last.to(self._device)
        after = before = found.next[last]
        dislikes = self._num_recent_dislikes(users) > 0
        if self._model.aversion and dislikes.any() and self._model.sequence_encoder is not None:
            # Not the state at an earlier token: newer events may have pushed others out.
            some = users[dislikes]
            earlier = self._sequences(some, self._num_before_dislikes[some.numpy()])
            states = self._model(*self._inputs(some, earlier))
            before = after.clone()
            before[dislikes] = states.next[earlier.last.to(self._device)]
        return UserStates(after, before, None if found.taste is None else found.taste[last])

    def _is_near_dislikes(self, users: Tensor, batch: SequenceBatch) -> Tensor:
        """1.0 for each item that is near to a recent dislike of the user, ``[B, I]``."""
        to_end = batch.last[batch.row] - torch.arange(len(batch.item))
        is_recent = (to_end < self._num_recent_dislikes(users)[batch.row]) & (batch.item != CLS)
        vectors = self._model.item_embedding.weight
        near = near_items(vectors, batch.item[is_recent].to(vectors.device))
        count = vectors.new_zeros(len(users), len(vectors))
        count.index_add_(0, batch.row[is_recent].to(vectors.device), near.to(count.dtype))
        return count.clamp_(max=1)

    def _num_recent_dislikes(self, users: Tensor) -> Tensor:
        """Explicit dislikes at the end of each user's history, int64 ``[B]``."""
        index = users.numpy()
        return torch.from_numpy(self._events.lengths[index] - self._num_before_dislikes[index])

    def _sequences(self, users: Tensor, stop: np.ndarray | None = None) -> SequenceBatch:
        encoder = self._model.sequence_encoder
        length, index = encoder.max_length if encoder else 1, users.numpy()
        return self._events.inference_batch(index, length, stop, self._requests[index])

    def _inputs(
        self, users: Tensor, batch: SequenceBatch
    ) -> tuple[SequenceBatch, FeedbackGraph | None, Tensor]:
        """The model's, on its device: the sequences, the graph and each sequence's user node."""
        self._model.eval()
        graph, user_node = self._full_graph, users
        if self._source is not None and graph is None:
            num_events = self._events.lengths[users.numpy()]
            graph = self._source.graph(users.numpy(), num_events).to(self._device)
            user_node = torch.arange(len(users))
        return batch.to(self._device), graph, user_node.to(self._device)


@torch.no_grad()
def near_items(vectors: Tensor, items: Tensor) -> Tensor:
    """Whether each item of the catalogue is among the `NUM_NEAR` nearest of a given one.

    Near are items whose vectors, less the mean vector, have a large cosine.

    Args:
        vectors: Vectors of all items, ``[I, D]``.
        items: Item indices, int64 ``[N]``.

    Returns:
        Bool ``[N, I]``; the item itself is one of its nearest.
    """
    vectors = F.normalize(vectors - vectors.mean(0), dim=1)
    nearest = (vectors[items] @ vectors.T).topk(min(NUM_NEAR, len(vectors))).indices
    near = torch.zeros(len(items), len(vectors), dtype=torch.bool, device=items.device)
    return near.scatter_(1, nearest, True)


def _events_before_dislikes(events: EventSequences) -> np.ndarray:
    """Each user's events up to the last that is not an explicit dislike, int64 ``[U]``."""
    user = np.repeat(np.arange(events.num_users), events.lengths)
    place = np.arange(len(user)) - events.offsets[user]
    is_other = events.feedback != Feedback.EXPLICIT_NEGATIVE
    count = np.zeros(events.num_users, dtype=np.int64)
    np.maximum.at(count, user[is_other], place[is_other] + 1)
    return count
