"""The network: encoders over shared item embeddings, and scores from the feedback graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from emorec.data.graph import FeedbackGraph, GraphSource
from emorec.data.sequences import EventSequences, SequenceBatch
from emorec.nn.feedback_paths import FeedbackPaths
from emorec.nn.feedback_sum import FeedbackSum
from emorec.nn.graph_encoder import GraphEncoder
from emorec.nn.polarity import ItemPolarity, NextPolarity
from emorec.nn.sequence_encoder import SequenceEncoder
from emorec.ops.rows import take_rows

__all__ = ["Informs", "ItemRows", "Recommender", "States"]

Informs = Literal["everything", "polarity"]


class ItemRows(NamedTuple):
    """Some rows of a table of items.

    Attributes:
        items: The items, ascending, int64 ``[M]``.
        vectors: Their rows, ``[M, D]``.
        place: For each item that was asked for, its place among them; -1: none.
    """

    items: Tensor
    vectors: Tensor
    place: Tensor


class States(NamedTuple):
    """What the model computes for a user after each token.

    Attributes:
        next: State from which the next item is predicted, ``[T, D]``.
        taste: What the polarity head predicts from; None without a head.
    """

    next: Tensor
    taste: Tensor | None


class Recommender(nn.Module):
    """Encodes users' events into states, and scores items by them.

        next = sequence state + graph vector of the user     (paper, 3.2.5)
        score_i = <next, item embedding_i>

    Beside or instead of the encoders, a `FeedbackSum` and `FeedbackPaths` score items from the
    feedback graph. They have no part in the states; `emorec.inference.ranking` adds their scores.

    The scores are trained on every event, dislikes included, because any interaction helps predict
    the next one. A polarity head, see `emorec.nn.polarity`, predicts which of the items a user will
    like. `emorec.inference.ranking` has the formula that lists are ranked by.

    Args:
        num_items: Size of the catalogue.
        size: Width of all vectors, ``D``.
        graph_encoder: Gives users' vectors from the feedback graph, added to the states, or None.
        sequence_encoder: Gives states from users' events, or None.
        polarity: Head that predicts the polarity of events to come, or None.
        graph_informs: "everything", or "polarity": then the graph has no part in the next item.
        aversion: Weight of the polarity and of dislikes in the ranking, at least 0; more than 0
            needs an `ItemPolarity` or `FeedbackPaths`.
        feedback_sum: Learned scores from the feedback graph, or None.
        feedback_paths: Counted scores from the feedback graph, or None.
        feedback_nodes: Whether the graph of the last two has feedback nodes.

    Raises:
        ValueError: If nothing scores items, ``aversion`` has nothing to weigh, a head has no
            events to predict from, or nothing but the graph could predict the next item and it
            must not.
    """

    def __init__(
        self,
        num_items: int,
        size: int,
        graph_encoder: GraphEncoder | None,
        sequence_encoder: SequenceEncoder | None,
        polarity: NextPolarity | ItemPolarity | None = None,
        graph_informs: Informs = "everything",
        aversion: float = 0.0,
        feedback_sum: FeedbackSum | None = None,
        feedback_paths: FeedbackPaths | None = None,
        feedback_nodes: bool = True,
    ) -> None:
        super().__init__()
        encoders = graph_encoder, sequence_encoder
        if not any((*encoders, feedback_sum, feedback_paths)):
            raise ValueError("the model needs an encoder, a feedback sum or feedback paths")
        informs_polarity = graph_encoder is not None and graph_informs == "polarity"
        if informs_polarity and (sequence_encoder is None or polarity is None):
            raise ValueError(
                "a graph that informs the polarity alone needs a polarity head, and a sequence "
                "encoder beside it"
            )
        if isinstance(polarity, ItemPolarity) and sequence_encoder is None:
            raise ValueError("a polarity head for items needs a sequence encoder")
        if aversion and not isinstance(polarity, ItemPolarity) and feedback_paths is None:
            raise ValueError(
                f"aversion {aversion} needs a head that predicts the polarity of items, or "
                "feedback paths"
            )
        self.item_embedding: nn.Embedding | None = None
        if any(encoders):
            self.item_embedding = nn.Embedding(num_items, size)
            nn.init.normal_(self.item_embedding.weight, std=0.1)
        self.graph_encoder = graph_encoder
        self.sequence_encoder = sequence_encoder
        self.polarity = polarity
        self.graph_informs: Informs = graph_informs
        self.aversion = aversion
        self.feedback_sum = feedback_sum
        self.feedback_paths = feedback_paths
        self.feedback_nodes = feedback_nodes

    @property
    def item_vectors(self) -> Tensor:
        """The embeddings of all items, ``[I, D]``.

        Raises:
            ValueError: If the model has no encoder, and so no embeddings.
        """
        if self.item_embedding is None:
            raise ValueError("a model without an encoder has no item embeddings")
        return self.item_embedding.weight

    def forward(
        self,
        batch: SequenceBatch,
        graph: FeedbackGraph | None = None,
        user_node: Tensor | None = None,
        sees_graph: Tensor | None = None,
        tokens: Tensor | None = None,
        rows: ItemRows | None = None,
    ) -> States:
        """States of the user after each token, or after some.

        Args:
            batch: ``B`` sequences of ``T`` tokens in all.
            graph: The graph, if the model has a graph encoder.
            user_node: The graph's user node of each sequence, int64 ``[B]``.
            sees_graph: Whether the graph is older than the event to come, bool ``[T]``; where it
                is not, the graph vector is left out. None: everywhere.
            tokens: Those whose states are needed, int64 ``[N]``; None: all.
            rows: The embeddings of the tokens' items, where the model itself has not all of them.

        Returns:
            The states after each of them.
        """
        items = self.item_vectors
        if self.sequence_encoder is None:
            num_states = batch.item.shape[0] if tokens is None else len(tokens)
            state = items.new_zeros(num_states, items.shape[1])
        elif rows is None:
            state = self.sequence_encoder(batch, items, tokens)
        else:
            numbered = replace(batch, item=rows.place)
            state = self.sequence_encoder(numbered, rows.vectors, tokens)
        vector = self.graph_vector(batch, graph, user_node)
        if vector is not None and sees_graph is not None:
            vector = vector * sees_graph[:, None]
        informed = state
        if vector is not None:
            informed = state + (vector if tokens is None else vector[tokens])
        taste = None
        if self.polarity is not None:
            taste = self.polarity.taste(informed, vector, batch, tokens)
        return States(informed if self.graph_informs == "everything" else state, taste)

    def graph_vector(
        self, batch: SequenceBatch, graph: FeedbackGraph | None, user_node: Tensor | None
    ) -> Tensor | None:
        """The graph's vector of each token's user, ``[T, D]``; None without a graph encoder."""
        if self.graph_encoder is None:
            return None
        assert graph is not None and user_node is not None
        # Not under autocast: of sums over many events, bfloat16 would lose the last ones.
        with torch.autocast(self.item_vectors.device.type, enabled=False):
            vector = self.graph_encoder(graph, self.item_vectors)  # [U, D]
        return take_rows(vector, user_node[batch.row])

    def scores(self, state: Tensor, items: Tensor) -> Tensor:
        """Scores of items as the next item.

        Args:
            state: ``[T, D]``.
            items: Items to score per state, int64 ``[T, N]``.

        Returns:
            ``[T, N]``.
        """
        return torch.einsum("td,tnd->tn", state, take_rows(self.item_vectors, items))

    def all_scores(self, state: Tensor, items: slice = slice(None)) -> Tensor:
        """Scores of all items, ``[T, I]``, or of a slice of them, for states ``[T, D]``."""
        return state @ self.item_vectors[items].T

    def graph_source(self, events: EventSequences, num_items: int) -> GraphSource | None:
        """Where the graphs that the model takes come from; None for a model without a graph.

        Args:
            events: All users' events.
            num_items: Size of the catalogue.
        """
        encoder = self.graph_encoder
        if encoder is not None:
            feedback_nodes = any(target == "item" for _, _, target in encoder.relations)
            return GraphSource(events, num_items, feedback_nodes, encoder.needs_full_graph)
        if self.feedback_sum is None and self.feedback_paths is None:
            return None
        return GraphSource(events, num_items, self.feedback_nodes, full=False)
