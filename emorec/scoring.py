"""Scores of the whole catalogue for users, given what is known of them."""

from __future__ import annotations

import torch
from torch import Tensor

from emorec.batches import GraphSource
from emorec.data.interactions import Interactions
from emorec.data.sequences import EventSequences
from emorec.nn.model import Recommender, States

__all__ = ["ModelScorer"]


class ModelScorer:
    """Scores items from a trained model and a history, which may be newer than its training.

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

    @torch.inference_mode()
    def states(self, users: Tensor) -> States:
        """States of each user after the newest event, one row per user."""
        self._model.eval()
        encoder = self._model.sequence_encoder
        batch = self._events.inference_batch(users.numpy(), encoder.max_length if encoder else 0)
        graph, user_node = self._full_graph, users
        if self._source is not None and graph is None:
            known = self._events.lengths[users.numpy()]
            graph = self._source.graph(users.numpy(), known).to(self._device)
            user_node = torch.arange(len(users))
        states = self._model(batch.to(self._device), graph, user_node.to(self._device))
        last = batch.last.to(self._device)
        return States(states.next[last], None if states.taste is None else states.taste[last])

    @torch.inference_mode()
    def __call__(self, users: Tensor) -> Tensor:
        """Scores of all items, ``[B, I]``, for user indices ``[B]``."""
        return self._model.ranking(self.states(users)).cpu()


def graph_source(model: Recommender, events: EventSequences, num_items: int) -> GraphSource | None:
    """Where a model's graphs come from; None if it has no graph encoder."""
    encoder = model.graph_encoder
    if encoder is None:
        return None
    feedback_nodes = any(target == "item" for _, _, target in encoder.relations)
    return GraphSource(events, num_items, feedback_nodes, encoder.needs_full_graph)
