"""The ranking: the whole formula by which a trained model orders the catalogue for a user.

With the aversion ``a``, the embedding ``e_i`` of item ``i`` and the user's state ``s``,

    ranking_i =   <s, e_i>                            next item
                + g (<x_u, target_i> + bias_i)        graph
                + h paths_i                           paths
                + a log P(positive | taste, i)        liked
                - 1.5 min(a, 1) dislikes_i            dislikes

    s = (1 - min(a, 1)) * state after the last event
        + min(a, 1) * state after the last event that is not an explicit dislike

`emorec.nn.feedback_sum` has the formula of the graph's term, and `emorec.nn.feedback_paths` those
of paths and dislikes. Validation chooses the weights ``g`` and ``h``.

At aversion 0 an explicit dislike is an event like any other, because people who reject an item
often see a similar one next. Above 0 a dislike is an answer to a list: it does not move the state,
and the items near to it lose up to 1.5, the less the more events follow. The taste depends on all
events.

Which terms a model has depends on its configuration. Most of the paper's presets have the first
term alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from emorec.data.feedback import Feedback
from emorec.data.graph import FeedbackGraph
from emorec.data.interactions import Interactions
from emorec.data.requests import newest_time
from emorec.data.sequences import EventSequences, SequenceBatch
from emorec.nn.feedback_paths import SparseScores
from emorec.nn.model import Recommender, States
from emorec.nn.polarity import ItemPolarity

__all__ = ["ModelScorer", "Terms", "UserStates", "dislike_weight"]

_DISLIKE = 1.5  # what a new dislike takes off the items near to it, from aversion 1 on


class Terms(NamedTuple):
    """The terms of the ranking, each ``[B, I]`` and multiplied by its weight; None if absent."""

    next_item: Tensor | None
    graph: Tensor | None
    paths: Tensor | None
    liked: Tensor | None
    dislikes: Tensor | None

    def total(self) -> Tensor:
        """Their sum, ``[B, I]``: what lists are ranked by."""
        first, *others = [term for term in self if term is not None]
        if not others:
            return first
        total = first + others[0]
        for term in others[1:]:
            total += term
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


class _UserPart(NamedTuple):
    """What the terms of the ranking need to know of users; None where a term is absent.

    Paths and dislikes are scores of all items, ``[B, I]``, or of those that they reach alone.
    """

    state: Tensor | None
    vector: Tensor | None
    taste: Tensor | None
    paths: Tensor | SparseScores | None
    dislikes: Tensor | SparseScores | None


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
        self._num_items = history.num_items
        self._source = model.graph_source(self._events, history.num_items)
        self._full_graph = None
        if self._source is not None and self._source.full:
            users = np.arange(history.num_users)
            self._full_graph = self._source.graph(users, self._events.lengths).to(device)

    def __call__(self, users: Tensor) -> Tensor:
        """Scores of all items, ``[B, I]`` on the CPU, for user indices ``[B]``."""
        return self.terms(users).total()

    @torch.inference_mode()
    def in_blocks(self, users: Tensor, size: int) -> Iterator[Tensor]:
        """The same scores for ``size`` items at a time, the last block for what is left."""
        part = self._user_part(users, whole=False)
        for start in range(0, self._num_items, size):
            items = slice(start, min(start + size, self._num_items))
            yield self._terms(part, items).total()

    @torch.inference_mode()
    def terms(self, users: Tensor) -> Terms:
        """The terms of the ranking apart, on the CPU, for user indices ``[B]``."""
        return self._terms(self._user_part(users, whole=True), slice(0, self._num_items))

    @torch.inference_mode()
    def states(self, users: Tensor) -> UserStates:
        """What the model computes from the users' events.

        Without aversion the ranking does not need the state before recent dislikes; it is the state
        after the last event then.
        """
        return self._states(users, self._sequences(users))

    @torch.inference_mode()
    def next_state(self, users: Tensor) -> Tensor:
        """The state ``s`` of the ranking, ``[B, D]``; the model must have an encoder."""
        return self._mixed(self._states(users, self._sequences(users)))

    def _user_part(self, users: Tensor, whole: bool) -> _UserPart:
        """What depends on users alone, to score the whole catalogue at once or blocks of it."""
        model, aversion = self._model, self._model.aversion
        state = vector = taste = paths = dislikes = None
        if model.feedback_sum is not None or model.feedback_paths is not None:
            graph = self._graph(users)
            if model.feedback_sum is not None:
                vector = model.feedback_sum(graph)
            if (counted := model.feedback_paths) is not None:
                paths = counted(graph) if whole else counted.sparse(graph)
                if aversion:
                    dislikes = counted.dislikes(graph) if whole else counted.sparse_dislikes(graph)
        if model.item_embedding is not None:
            states = self._states(users, self._sequences(users))
            state, taste = self._mixed(states), states.taste
        return _UserPart(state, vector, taste, paths, dislikes)

    def _terms(self, part: _UserPart, items: slice) -> Terms:
        model, aversion = self._model, self._model.aversion
        following = summed = paths = liked = dislikes = None
        if part.vector is not None:
            assert model.feedback_sum is not None
            scores = model.feedback_sum.scores(part.vector, items)
            summed = scores.mul_(model.feedback_sum.ranking_weight).cpu()
        if part.paths is not None:
            assert model.feedback_paths is not None
            scores = _of_items(part.paths, items)
            paths = (model.feedback_paths.ranking_weight * scores).cpu()
        if part.dislikes is not None:
            near = _of_items(part.dislikes, items).cpu()
            dislikes = -dislike_weight(aversion) * near
        if part.state is not None:
            following = model.all_scores(part.state, items).cpu()
        if aversion and isinstance(model.polarity, ItemPolarity) and part.taste is not None:
            liked = model.polarity.log_probability(part.taste, items).mul_(aversion).cpu()
        return Terms(following, summed, paths, liked, dislikes)

    def _mixed(self, states: UserStates) -> Tensor:
        share = min(self._model.aversion, 1.0)
        return torch.lerp(states.next, states.before_dislikes, share) if share else states.next

    @torch.inference_mode()
    def graph_scores(self, users: Tensor) -> Tensor | None:
        """Scores of the feedback sum before their weight, ``[B, I]``; None without it."""
        encoder = self._model.feedback_sum
        return None if encoder is None else encoder.scores(encoder(self._graph(users))).cpu()

    @torch.inference_mode()
    def path_scores(self, users: Tensor) -> Tensor | None:
        """Scores of the feedback paths before their weight, ``[B, I]``; None without them."""
        paths = self._model.feedback_paths
        return None if paths is None else paths(self._graph(users)).cpu()

    @torch.inference_mode()
    def polarity(self, users: Tensor, items: Tensor | None = None) -> Tensor:
        """P(positive | user, item) on the CPU.

        Args:
            users: User indices, int64 ``[B]``.
            items: Item indices for each of them, int64 ``[B, K]``; None: all items.

        Returns:
            ``[B, I]``, or ``[B, K]`` of the items.

        Raises:
            ValueError: If the model does not predict the polarity of items.
        """
        head, taste = self._head(), self.taste(users)
        if items is None:
            return head.log_probability(taste).exp().cpu()
        return head.logits(taste, items.to(taste.device))[..., 1].sigmoid().cpu()

    @torch.inference_mode()
    def taste(self, users: Tensor) -> Tensor:
        """What an `ItemPolarity` predicts from: mean feedback and taste vector, ``[B, 1 + R]``.

        Raises:
            ValueError: If the model does not predict the polarity of items.
        """
        head = self._head()
        batch, graph, user_node = self._inputs(users, self._sequences(users))
        vector = self._model.graph_vector(batch, graph, user_node)
        return head.taste(None, vector, batch, batch.last)  # no state: half of the work is saved

    @torch.inference_mode()
    def graph_vectors(self, users: Tensor) -> Tensor:
        """Vectors ``x_u`` of the feedback sum, ``[B, D]``; the model must have one."""
        assert self._model.feedback_sum is not None
        return self._model.feedback_sum(self._graph(users))

    def _head(self) -> ItemPolarity:
        head = self._model.polarity
        if not isinstance(head, ItemPolarity):
            raise ValueError(
                "this model does not predict the polarity of items: model.polarity is not 'item'"
            )
        return head

    def _states(self, users: Tensor, batch: SequenceBatch) -> UserStates:
        encoder, last = self._model.sequence_encoder, batch.last
        num_newer = torch.from_numpy(self._events.lengths - self._num_before_dislikes)[users]
        if encoder is None or not self._model.aversion or not num_newer.any():
            found = self._computed(users, batch, last)
            return UserStates(found.next, found.next, found.taste)
        # The states before the newest dislikes are those at an earlier token, unless the dislikes
        # pushed older events out of the sequence, or tokens encode the time of the request.
        has_dislikes = num_newer > 0
        is_whole = torch.from_numpy(self._events.lengths)[users] < encoder.max_length
        is_there = has_dislikes & is_whole & (encoder.until is None)
        found = self._computed(users, batch, torch.cat([last, (last - num_newer)[is_there]]))
        after = found.next[: len(users)]
        before = after.clone()
        before[is_there] = found.next[len(users) :]
        if (is_other := has_dislikes & ~is_there).any():
            some = users[is_other]
            earlier = self._sequences(some, self._num_before_dislikes[some.numpy()])
            before[is_other] = self._computed(some, earlier, earlier.last).next
        return UserStates(after, before, None if found.taste is None else found.taste[: len(users)])

    def _computed(self, users: Tensor, batch: SequenceBatch, tokens: Tensor) -> States:
        """The model's states after some tokens."""
        inputs = self._inputs(users, batch)
        return self._model(*inputs, tokens=tokens.to(self._device))

    def _sequences(self, users: Tensor, stop: np.ndarray | None = None) -> SequenceBatch:
        encoder = self._model.sequence_encoder
        length, index = encoder.max_length if encoder else 1, users.numpy()
        return self._events.inference_batch(index, length, stop, self._requests[index])

    def _inputs(
        self, users: Tensor, batch: SequenceBatch
    ) -> tuple[SequenceBatch, FeedbackGraph | None, Tensor]:
        """The model's, on its device: the sequences, the graph and each sequence's user node."""
        self._evaluate()
        graph, user_node = self._full_graph, users
        if self._model.graph_encoder is not None and graph is None:
            graph, user_node = self._graph(users), torch.arange(len(users))
        return batch.to(self._device), graph, user_node.to(self._device)

    def _evaluate(self) -> None:
        if self._model.training:  # else setting it in every module takes a tenth of a list's time
            self._model.eval()

    def _graph(self, users: Tensor) -> FeedbackGraph:
        """A graph of the users alone."""
        self._evaluate()
        assert self._source is not None
        index = users.numpy()
        return self._source.graph(index, self._events.lengths[index]).to(self._device)


def _of_items(scores: Tensor | SparseScores, items: slice) -> Tensor:
    return scores.of(items) if isinstance(scores, SparseScores) else scores[:, items]


def dislike_weight(aversion: float) -> float:
    """What a new dislike takes off the items near to it: ``1.5 min(a, 1)``."""
    return _DISLIKE * min(aversion, 1.0)


def _events_before_dislikes(events: EventSequences) -> np.ndarray:
    """Each user's events up to the last that is not an explicit dislike, int64 ``[U]``."""
    user = np.repeat(np.arange(events.num_users), events.lengths)
    place = np.arange(len(user)) - events.offsets[user]
    is_other = events.feedback != Feedback.EXPLICIT_NEGATIVE
    count = np.zeros(events.num_users, dtype=np.int64)
    np.maximum.at(count, user[is_other], place[is_other] + 1)
    return count
