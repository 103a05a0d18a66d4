"""Scores of the whole catalogue for users, given what is known of them."""

from __future__ import annotations

import torch
from torch import Tensor

from emorec.batches import GraphSource
from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences, SequenceBatch
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
        self._source = graph_source(model, self._events, history.num_items)
        self._full_graph = None
        if self._source is not None and self._source.full:
            users = torch.arange(history.num_users).numpy()
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
            is_refused = torch.arange(len(batch.item)) > _last_accepted(batch)[batch.row]
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

    def _sequences(self, users: Tensor) -> SequenceBatch:
        encoder = self._model.sequence_encoder
        return self._events.inference_batch(users.numpy(), encoder.max_length if encoder else 1)

    def _states(self, users: Tensor, batch: SequenceBatch) -> States:
        following, accepted, taste = self._known(users, batch)
        steering = min(self._model.aversion, 1.0)
        return States(torch.lerp(following, accepted, steering), taste)

    @torch.inference_mode()
    def _known(self, users: Tensor, batch: SequenceBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """What comes next after the last event, and the last accepted one; the taste."""
        states = self._model(*self._inputs(users, batch))
        last, accepted = batch.last.to(self._device), _last_accepted(batch).to(self._device)
        taste = None if states.taste is None else states.taste[last]
        return states.next[last], states.next[accepted], taste

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


def _last_accepted(batch: SequenceBatch) -> Tensor:
    """Each sequence's last token that is no explicit dislike, or [CLS]: int64 ``[B]``."""
    token = torch.arange(len(batch.item))
    accepted = batch.feedback != Feedback.EXPLICIT_NEGATIVE
    return torch.where(accepted, token, -1).cummax(0).values[batch.last]


def graph_source(model: Recommender, events: EventSequences, num_items: int) -> GraphSource | None:
    """Where a model's graphs come from; None if it has no graph encoder."""
    encoder = model.graph_encoder
    if encoder is None:
        return None
    feedback_nodes = any(target == "item" for _, _, target in encoder.relations)
    return GraphSource(events, num_items, feedback_nodes, encoder.needs_full_graph)
