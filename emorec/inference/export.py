"""A trained model in forms that other programs use: vectors, and a program of `torch.export`."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from emorec.data.feedback import Feedback
from emorec.data.sequences import CLS, SequenceBatch
from emorec.inference.ranking import ModelScorer, dislike_weight
from emorec.nn.feedback_paths import DISLIKE_DECAY, MOST_NEWER, FeedbackPaths
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity

__all__ = ["OneUser", "exported", "item_vectors", "user_vectors"]

_MOST_EVENTS = 1_000_000  # of a user


@torch.inference_mode()
def item_vectors(model: Recommender) -> Tensor:
    """Vectors of items whose inner product with `user_vectors` is the first terms of the ranking.

        item_i = [e_i, g target_i, g bias_i]

    Returns:
        float32 ``[I, V]`` on the CPU; what the model lacks is left out.

    Raises:
        ValueError: If the model has neither encoders nor a feedback sum.
    """
    parts = []
    if model.item_embedding is not None:
        parts.append(model.item_vectors)
    if (encoder := model.feedback_sum) is not None:
        target = torch.cat([encoder.target.weight, encoder.bias[:, None]], dim=1)
        parts.append(encoder.ranking_weight * target)
    if not parts:
        raise ValueError("this model has no vectors of items: it has feedback paths alone")
    return torch.cat(parts, dim=1).cpu()


@torch.inference_mode()
def user_vectors(model: Recommender, scorer: ModelScorer, users: np.ndarray) -> Tensor:
    """Vectors of users, see `item_vectors`.

        user = [s, x_u, 1]        <user, item_i> = next item + graph

    Args:
        model: The model.
        scorer: Its scorer, with the events that the vectors depend on.
        users: User indices of the scorer, int64 ``[B]``.

    Returns:
        float32 ``[B, V]`` on the CPU.
    """
    index, parts = torch.from_numpy(users), []
    if model.item_embedding is not None:
        parts.append(scorer.next_state(index))
    if model.feedback_sum is not None:
        vectors = scorer.graph_vectors(index)
        parts += [vectors, vectors.new_ones(len(users), 1)]
    return torch.cat([part.cpu() for part in parts], dim=1)


class OneUser(nn.Module):
    """The ranking of one user, from the user's events, in plain PyTorch.

    It has the same terms as `emorec.inference.ranking.ModelScorer`, without compiled operators, so
    that `torch.export` can take it.

    Args:
        model: A model with a sequence encoder or a feedback sum, without layers of convolutions.

    Raises:
        ValueError: If the model has a graph encoder, whose vectors depend on other users' events,
            or depends on the time of the request.
    """

    def __init__(self, model: Recommender) -> None:
        super().__init__()
        if model.graph_encoder is not None:
            raise ValueError(
                "the model has a graph encoder (graph.conv 'sage' or 'gat'), which cannot be "
                "exported: only models whose scores depend on the user's own events can"
            )
        if model.sequence_encoder is not None and model.sequence_encoder.until is not None:
            raise ValueError(
                "the model depends on the time of the request (sequence.request_time), which an "
                "exported scorer does not have"
            )
        self.model = copy.deepcopy(model).cpu().eval()
        if self.model.sequence_encoder is not None:
            for layer in self.model.sequence_encoder.layers:
                layer.attention = "reference"  # type: ignore[assignment]

    def forward(self, item: Tensor, feedback: Tensor, days: Tensor) -> Tensor:
        """Scores of all items.

        Args:
            item: Items of the user's events, oldest first, int64 ``[L]``, at least one.
            feedback: Their `Feedback`, int64 ``[L]``.
            days: Times of the newest events in days, since any moment, float64 ``[N]``: of those
                that fit into the sequence encoder, one less than ``sequence.max_length``.

        Returns:
            float32 ``[I]``.
        """
        model, aversion = self.model, self.model.aversion
        newer = item.shape[0] - 1 - torch.arange(item.shape[0])
        total: Tensor | float = 0.0
        if model.item_embedding is not None:
            total = total + self._encoded(item, feedback, days)
        if (summed := model.feedback_sum) is not None:
            weight = torch.exp(-newer / summed.decay_length)
            kind = feedback if len(summed.kind_weight) > 1 else torch.zeros_like(feedback)
            pull = (weight * summed.kind_weight[kind])[:, None] * summed.source(item)
            vector = pull.sum(0) * (summed.scale / weight.sum().sqrt())
            scores = summed.target.weight @ vector + summed.bias
            total = total + summed.ranking_weight * scores
        if (paths := model.feedback_paths) is not None:
            shares = torch.tensor(FeedbackPaths.SHARES if model.feedback_nodes else (1.0,) * 4)
            weight = shares[feedback] * torch.exp(-newer / paths.decay_length)
            found, near = paths.item[item].long(), paths.similarity[item]
            scores = torch.zeros(len(paths.item)).index_add(
                0, found.flatten(), (weight[:, None] * near).flatten()
            )
            total = total + paths.ranking_weight * scores / scores.max().clamp(min=1e-38)
            if aversion and model.feedback_nodes:
                is_dislike = feedback == Feedback.EXPLICIT_NEGATIVE
                is_dislike = is_dislike & (newer < MOST_NEWER)
                weight = is_dislike * torch.exp(-newer / DISLIKE_DECAY)
                close = paths.nearest(item)
                lowered = torch.zeros(len(paths.item)).scatter_reduce(
                    0, close.flatten(), weight[:, None].expand_as(close).flatten(), "amax"
                )
                total = total - dislike_weight(aversion) * lowered
        assert isinstance(total, Tensor)
        return total

    def _encoded(self, item: Tensor, feedback: Tensor, days: Tensor) -> Tensor:
        """The terms next item and liked, ``[I]``."""
        model, aversion = self.model, self.model.aversion
        number = days.shape[0]
        older = item.shape[0] - number
        item, feedback = item.narrow(0, older, number), feedback.narrow(0, older, number)
        first, cls = torch.zeros(1, dtype=torch.float64), torch.full((1,), CLS)
        position = torch.arange(number + 1, dtype=torch.int32)
        batch = SequenceBatch(
            user=torch.zeros(1, dtype=torch.int64),
            item=torch.cat([cls, item]),
            feedback=torch.cat([cls, feedback]),
            days=torch.cat([first, days - days[0]]),
            days_to_next=torch.zeros(number + 1, dtype=torch.float64),
            position=position,
            cu_seqlens=torch.tensor([0, 1]) * (number + 1),
        )
        states = model(batch)
        state = states.next[-1]
        if share := min(aversion, 1.0):
            is_other = batch.feedback != Feedback.EXPLICIT_NEGATIVE
            place = torch.where(is_other, position, 0).max()
            before = states.next.index_select(0, place.long()[None])[0]
            state = torch.lerp(state, before, share)
        scores = model.item_vectors @ state
        if aversion and isinstance(model.polarity, ItemPolarity):
            scores = scores + aversion * model.polarity.log_probability(states.taste[-1:])[0]
        return scores


def exported(model: Recommender) -> torch.export.ExportedProgram:
    """The ranking as a program of `torch.export`, which needs nothing of EmoRec.

    Its inputs and its output are those of `OneUser`.

    Raises:
        ValueError: If the model's scores depend on more than the user's own events.
    """
    program = OneUser(model)
    encoder = model.sequence_encoder
    newest = _MOST_EVENTS if encoder is None else encoder.max_length - 1
    every = {0: torch.export.Dim("events", min=1, max=_MOST_EVENTS)}
    some = {0: torch.export.Dim("newest", min=1, max=newest)}
    # Two tensors, or torch.export would take both inputs for one.
    item, feedback = torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    days = torch.zeros(min(3, newest), dtype=torch.float64)
    with torch.no_grad():
        return torch.export.export(
            program,
            (item, feedback, days),
            dynamic_shapes={"item": every, "feedback": every, "days": some},
        )
