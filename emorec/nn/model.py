"""The recommender: graph and sequence encoders over shared item embeddings."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emorec.data.graph import FeedbackGraph
from emorec.data.sequences import SequenceBatch
from emorec.nn.graph_encoder import GraphEncoder
from emorec.nn.neighbours import Neighbours
from emorec.nn.polarity import ItemPolarity, NextPolarity
from emorec.nn.sequence_encoder import SequenceEncoder

__all__ = ["Informs", "Recommender", "States"]

Informs = Literal["everything", "polarity"]


class States(NamedTuple):
    """What is known of a user after each token.

    Attributes:
        next: Says what comes next, ``[T, D]``.
        taste: Says what of it will be liked: what the polarity head made of it all, or nothing
            where there is no such head.
    """

    next: Tensor
    taste: Tensor | None


class Recommender(nn.Module):
    """Scores items for a user's state.

        next = sequence state + gate * graph vector of the user     (paper, 3.2.5: gate = 1)
        score_i = <next, item embedding_i>                          (what comes next)
        ranking_i = score_i + aversion * log P(positive | taste, item i)

    What lists are ranked by has two more terms, see `emorec.scoring.ModelScorer`. The first two
    lines are trained for what people do next, disliked or not, since that says most about what
    they do; the polarity head, see `emorec.nn.polarity`, knows which of it they like. With
    ``aversion`` 1 items are ranked by the probability that they come next and are liked; more of
    it trades such hits for fewer dislikes.

    Args:
        num_items: Size of the catalogue.
        size: Width of all vectors, ``D``.
        graph_encoder: Gives users' vectors from the feedback graph, or None.
        sequence_encoder: Gives states from users' events, or None.
        polarity: Head that predicts the polarity of events to come, or None.
        gated: Whether the gate is learned, from 0.1 on, so that the graph adds to the sequence
            no more than it is good for.
        graph_informs: "everything", or "polarity": then the graph has no part in what comes next.
        aversion: Weight of the polarity in the ranking, at least 0; more than 0 needs an
            `ItemPolarity`.
        neighbours: What adds to the ranking of users, see `emorec.scoring`, or None.

    Raises:
        ValueError: If there is neither encoder, ``aversion`` has no head to ask, a head has no
            events to judge by, or nothing but the graph could say what comes next and it may not.
    """

    NUM_NEAREST = 16  # an item and fifteen others

    def __init__(
        self,
        num_items: int,
        size: int,
        graph_encoder: GraphEncoder | None,
        sequence_encoder: SequenceEncoder | None,
        polarity: NextPolarity | ItemPolarity | None = None,
        gated: bool = False,
        graph_informs: Informs = "everything",
        aversion: float = 0.0,
        neighbours: Neighbours | None = None,
    ) -> None:
        super().__init__()
        if graph_encoder is None and sequence_encoder is None:
            raise ValueError("the model needs a graph encoder, a sequence encoder, or both")
        informs_polarity = graph_encoder is not None and graph_informs == "polarity"
        if informs_polarity and (sequence_encoder is None or polarity is None):
            raise ValueError(
                "a graph that informs the polarity alone needs a polarity head, and a sequence "
                "encoder beside it"
            )
        if isinstance(polarity, ItemPolarity) and sequence_encoder is None:
            raise ValueError("a polarity head that judges by events needs a sequence encoder")
        if aversion and not isinstance(polarity, ItemPolarity):
            raise ValueError(f"aversion {aversion} needs a head that knows the polarity of items")
        self.item_embedding = nn.Embedding(num_items, size)
        nn.init.normal_(self.item_embedding.weight, std=0.1)
        self.graph_encoder = graph_encoder
        self.sequence_encoder = sequence_encoder
        self.gate = nn.Parameter(torch.tensor(0.1)) if gated else None
        self.polarity = polarity
        self.graph_informs: Informs = graph_informs
        self.aversion = aversion
        self.neighbours = neighbours

    def forward(
        self,
        batch: SequenceBatch,
        graph: FeedbackGraph | None = None,
        user_node: Tensor | None = None,
        sees_graph: Tensor | None = None,
    ) -> States:
        """States of the user after each token.

        Args:
            batch: ``B`` sequences of ``T`` tokens in all.
            graph: The graph, if the model has a graph encoder.
            user_node: The graph's user node of each sequence, int64 ``[B]``.
            sees_graph: Whether the graph is older than the event to come, bool ``[T]``; where it
                is not, the graph vector is left out. None: everywhere.

        Returns:
            The states after each token.
        """
        items = self.item_embedding.weight
        state = items.new_zeros(len(batch.item), items.shape[1])
        if self.sequence_encoder is not None:
            state = state + self.sequence_encoder(batch, items)
        vector = self.graph_vector(batch, graph, user_node)
        if vector is not None and sees_graph is not None:
            vector = vector * sees_graph[:, None]
        informed = state if vector is None else state + vector
        taste = None if self.polarity is None else self.polarity.taste(informed, vector, batch)
        return States(informed if self.graph_informs == "everything" else state, taste)

    def graph_vector(
        self, batch: SequenceBatch, graph: FeedbackGraph | None, user_node: Tensor | None
    ) -> Tensor | None:
        """The graph's vector of each token's user, ``[T, D]``; None without a graph encoder."""
        if self.graph_encoder is None:
            return None
        assert graph is not None and user_node is not None
        vector = self.graph_encoder(graph, self.item_embedding.weight)  # [U, D]
        vector = F.embedding(user_node[batch.row], vector)
        return vector if self.gate is None else self.gate * vector

    def scores(self, state: Tensor, items: Tensor) -> Tensor:
        """How likely items come next, up to a constant per state.

        Args:
            state: ``[T, D]``.
            items: Items to score per state, int64 ``[T, N]``.

        Returns:
            ``[T, N]``.
        """
        return torch.einsum("td,tnd->tn", state, self.item_embedding(items))

    @torch.no_grad()
    def is_near(self, items: Tensor) -> Tensor:
        """Whether each item of the catalogue is one of the few that are nearest to a given one.

        Near are items whose embeddings, less their mean, have a large cosine.

        Args:
            items: Item indices, int64 ``[N]``.

        Returns:
            Bool ``[N, I]``: `NUM_NEAREST` items in each row, the item itself one of them.
        """
        vectors = self.item_embedding.weight
        vectors = F.normalize(vectors - vectors.mean(0), dim=1)
        nearest = (vectors[items] @ vectors.T).topk(min(self.NUM_NEAREST, len(vectors))).indices
        near = torch.zeros(len(items), len(vectors), dtype=torch.bool, device=items.device)
        return near.scatter_(1, nearest, True)

    def ranking(self, states: States) -> Tensor:
        """What the whole catalogue is ranked by, ``[T, I]``."""
        scores = states.next @ self.item_embedding.weight.T
        if not self.aversion:
            return scores
        assert isinstance(self.polarity, ItemPolarity) and states.taste is not None
        return scores + self.aversion * self.polarity.log_probability(states.taste)
