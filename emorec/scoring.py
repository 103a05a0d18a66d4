"""Scores of the whole catalogue for users, given what is known of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from emorec.batches import GraphSource
from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph
from emorec.data.interactions import Interactions
from emorec.data.sequences import CLS, EventSequences, SequenceBatch
from emorec.nn.model import Recommender, States
from emorec.nn.polarity import ItemPolarity

__all__ = ["ModelScorer"]


class ModelScorer:
    """Scores items from a trained model and a history, which may be newer than its training.

    With the state ``s`` of what comes next, the embedding ``e_i`` of item ``i``, the aversion ``a``
    and a model that has neighbours, the whole ranking is

        <s, e_i> + a log P(positive | taste, i) + weight * vote_i - a [i is near a refused item]
        s = (1 - min(a, 1)) * state after the last event
            + min(a, 1) * state after the last event that is no explicit dislike

    Refused are the items of the explicit dislikes since that event. Without aversion an explicit
    dislike is an event like others: people who reject an item often meet one of its kind next.
    With aversion dislikes are answers to a list: they do not steer what comes next, and what is
    near to them falls. The taste knows of all events.

    Args:
        model: The model; used in evaluation mode.
        history: What is known when the scores are made.
        device: Where to compute.
    """

    def __init__(self, model: Recommender, history: Interactions, device: str = "cpu") -> None:
        self._model, self._device = model, device
        self._events = EventSequences.build(history)
        self._num_accepted = _up_to_last_accepted(self._events)
        self._source = graph_source(model, self._events, history.num_items)
        self._full_graph = None
        if self._source is not None and self._source.full:
            users = np.arange(history.num_users)
            self._full_graph = self._source.graph(users, self._events.lengths).to(device)

    def states(self, users: Tensor) -> States:
        """What is known of each user after the newest event, one row per user."""
        return self._states(users, self._sequences(users))

    @torch.inference_mode()
    def __call__(self, users: Tensor) -> Tensor:
        """Scores of all items, ``[B, I]``, for user indices ``[B]``."""
        scores = self.without_vote(users)
        if self._model.neighbours is not None:
            scores += self._model.neighbours.weight.cpu() * self.vote(users)
        return scores

    @torch.inference_mode()
    def without_vote(self, users: Tensor) -> Tensor:
        """The same without what the neighbours say."""
        batch = self._sequences(users)
        scores = self._model.ranking(self._states(users, batch))
        if self._model.aversion:
            is_refused = self._is_refused(users, batch)
            near = self._model.is_near(batch.item[is_refused].to(self._device))
            refused = torch.zeros_like(scores)
            refused.index_add_(0, batch.row[is_refused].to(self._device), near.to(scores.dtype))
            scores -= self._model.aversion * refused.clamp_(max=1)
        return scores.cpu()

    @torch.inference_mode()
    def vote(self, users: Tensor) -> Tensor:
        """The neighbours' votes, ``[B, I]``; see `emorec.nn.neighbours`.

        Raises:
            ValueError: If the model has no neighbours.
        """
        if self._model.neighbours is None:
            raise ValueError("this model has no neighbours: model.neighbours is 0")
        return self._model.neighbours(self._sequences(users).to(self._device)).cpu()

    @torch.inference_mode()
    def polarity(self, users: Tensor) -> Tensor:
        """P(positive | user, item) of all items, ``[B, I]``, for user indices ``[B]``.

        Raises:
            ValueError: If the model does not judge items.
        """
        head = self._model.polarity
        if not isinstance(head, ItemPolarity):
            raise ValueError("this model does not know the polarity of items: model.polarity")
        batch, graph, user_node = self._inputs(users, self._sequences(users))
        vector = self._model.graph_vector(batch, graph, user_node)
        taste = head.taste(None, vector, batch)[batch.last]  # no state: half of the work is saved
        return head.log_probability(taste).exp().cpu()

    def _sequences(self, users: Tensor, stop: np.ndarray | None = None) -> SequenceBatch:
        encoder = self._model.sequence_encoder
        length = encoder.max_length if encoder else 1
        return self._events.inference_batch(users.numpy(), length, stop)

    def _states(self, users: Tensor, batch: SequenceBatch) -> States:
        following, accepted, taste = self._known(users, batch)
        steering = min(self._model.aversion, 1.0)
        return States(torch.lerp(following, accepted, steering), taste)

    @torch.inference_mode()
    def _known(self, users: Tensor, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """What comes next after the last event, and the last accepted one; the taste."""
        states = self._model(*self._inputs(users, batch))
        last = batch.last.to(self._device)
        following = accepted = states.next[last]
        has_refused = self._num_refused(users) > 0
        if has_refused.any() and self._model.sequence_encoder is not None:
            # Not the state at an earlier token: newer events may have pushed others out.
            users = users[has_refused]
            before = self._sequences(users, self._num_accepted[users.numpy()])
            states_before = self._model(*self._inputs(users, before))
            accepted = following.clone()
            accepted[has_refused] = states_before.next[before.last.to(self._device)]
        return following, accepted, None if states.taste is None else states.taste[last]

    def _num_refused(self, users: Tensor) -> Tensor:
        """Explicit dislikes at the end of each user's history, int64 ``[B]``."""
        known = users.numpy()
        return torch.from_numpy(self._events.lengths[known] - self._num_accepted[known])

    def _is_refused(self, users: Tensor, batch: SequenceBatch) -> Tensor:
        """Whether each token is one of these dislikes, bool ``[T]``."""
        to_end = batch.last[batch.row] - torch.arange(len(batch.item))
        return (to_end < self._num_refused(users)[batch.row]) & (batch.item != CLS)

    def _inputs(
        self, users: Tensor, batch: SequenceBatch
    ) -> tuple[SequenceBatch, FeedbackGraph | None, Tensor]:
        """The model's, on its device: the sequences, the graph and each sequence's user node."""
        self._model.eval()
        graph, user_node = self._full_graph, users
        if self._source is not None and graph is None:
            known = self._events.lengths[users.numpy()]
            graph = self._source.graph(users.numpy(), known).to(self._device)
            user_node = torch.arange(len(users))
        return batch.to(self._device), graph, user_node.to(self._device)


def _up_to_last_accepted(events: EventSequences) -> np.ndarray:
    """Each user's events up to the last that is no explicit dislike, int64 ``[U]``."""
    user = np.repeat(np.arange(events.num_users), events.lengths)
    place = np.arange(len(user)) - events.offsets[user]
    accepted = events.feedback != Feedback.EXPLICIT_NEGATIVE
    count = np.zeros(events.num_users, dtype=np.int64)
    np.maximum.at(count, user[accepted], place[accepted] + 1)
    return count


def graph_source(model: Recommender, events: EventSequences, num_items: int) -> GraphSource | None:
    """Where a model's graphs come from; None if it has no graph encoder."""
    encoder = model.graph_encoder
    if encoder is None:
        return None
    feedback_nodes = any(target == "item" for _, _, target in encoder.relations)
    return GraphSource(events, num_items, feedback_nodes, encoder.needs_full_graph)
