"""What a fitted recommender answers: lists, scores, similar items and users, explanations."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emorec.config import Config
from emorec.data.datasets import DATASETS
from emorec.data.interactions import Interactions
from emorec.data.items import Items
from emorec.data.readers import read_interactions
from emorec.data.requests import first_times, newest_time, requests_at
from emorec.data.rules import NoRuleMatches
from emorec.data.splits import Split
from emorec.data.stores import is_store, read_store
from emorec.data.tables import as_frame
from emorec.data.titles import Titles
from emorec.data.vocabulary import Vocabulary
from emorec.inference.explain import Explanation, explain
from emorec.inference.filters import Filters, ItemIds
from emorec.inference.lists import ListMaker
from emorec.inference.pair_scores import columns_of_pairs, score_pairs, without_score
from emorec.inference.ranking import ModelScorer
from emorec.inference.request import Request
from emorec.inference.similar import By, similar_frame, similar_items, similar_users
from emorec.nn.model import Recommender
from emorec.texts import count, plain
from emorec.training.checkpoint import EpochRecord
from emorec.training.cold_items import ColdItems

__all__ = ["FittedRecommender", "NotFittedError"]


class NotFittedError(RuntimeError):
    """Raised where a method needs a fitted model."""


class FittedRecommender:
    """A fitted model with its log, which takes and returns the caller's own ids.

    `emorec.EmoRec` fits, saves and loads one.

    Attributes:
        config: The configuration.
        records: A record per epoch of training.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.records: list[EpochRecord] = []
        self._model: Recommender | None = None
        self._split: Split | None = None
        self._items = Items()
        self._cold: ColdItems | None = None
        self._was_given_test = False

    @property
    def model(self) -> Recommender:
        """The trained network.

        Raises:
            NotFittedError: Before `fit`.
        """
        if self._model is None:
            raise NotFittedError(
                "this EmoRec instance is not fitted yet; call fit() or load() first"
            )
        return self._model

    @property
    def split(self) -> Split:
        """The train, validation and test splits of the log.

        Raises:
            NotFittedError: Before `fit`.
        """
        if self._split is None:
            raise NotFittedError(
                "this EmoRec instance is not fitted yet; call fit() or load() first"
            )
        return self._split

    @property
    def titles(self) -> dict[Any, str]:
        """Titles by item id, of the items that have one; empty if the model has no titles.

        Raises:
            NotFittedError: Before `fit`.
        """
        _ = self.split
        return {} if self._titles is None else self._titles.as_dict()

    @property
    def cold_items(self) -> list[Any]:
        """Ids of the cold items, which have features and no event in the log; empty without any.

        Raises:
            NotFittedError: Before `fit`.
        """
        _ = self.split
        return [] if self._cold is None else self._cold.ids

    @property
    def _titles(self) -> Titles | None:
        return self._items.titles

    def _catalogue(self, cold: bool) -> tuple[Recommender, Split]:
        """The model and its log, with the cold items if asked to."""
        if not cold:
            return self.model, self.split
        _ = self.split
        if self._cold is None:
            raise ValueError(
                "cold is true, but the model has no cold items: those that have features in the "
                "table of items, and no event in the log; train it with such a table"
            )
        return self._cold.model, self._cold.split

    def scorer(self) -> ModelScorer:
        """Returns a scorer of all items for user indices, given the train and validation events.

        With ``sequence.request_time``, the time of a user's request is that of the user's first
        test event.
        """
        split, device = self.split, self.config.training.device
        return ModelScorer(self.model, split.history, device, requests=self._test_times())

    def _test_times(self) -> np.ndarray | None:
        """The time of each user's first test event; None for a model that does not encode it."""
        if not self.config.sequence.request_time:
            return None
        return first_times(self.split.test, self.split.history)

    def recommend(
        self,
        users: Iterable[Any],
        k: int = 10,
        events: Any = None,
        *,
        items: ItemIds | None = None,
        exclude: ItemIds | None = None,
        min_liked: float | None = None,
        diversity: float = 0.0,
        at: Any = None,
        allow_seen: bool | None = None,
        cold: bool = False,
        before_test: bool | None = None,
        progress: bool = False,
    ) -> pd.DataFrame:
        """Recommends the top k items to each user.

        Args:
            users: The users' own ids. Unknown users, and those without an event until ``at``, get
                the most popular items, and a warning.
            k: Length of the lists; they are shorter where no more items are left.
            events: New events of known or new users, in any form that `fit` takes except a split,
                with the same columns. The lists reflect them at once; nothing is trained.
            items: The items' own ids: only these may be listed. A list for all users, or a mapping
                from each user's id to a list. None: the whole catalogue.
            exclude: Ids of items that may not be listed, likewise; a mapping may leave users out.
            min_liked: Least P(liked) of a listed item, in [0, 1]: the column ``liked``.
            diversity: From 0, the best items, to 1, items far from those above them in the list:
                maximal marginal relevance among the ``10 k`` best, see
                `emorec.inference.diversity`.
            at: Time of the request: a date (`datetime`, pandas ``Timestamp`` or ISO 8601 text;
                without a zone in UTC) or a number in the log's unit since 1970. One for all users,
                or a list of one per user. The users' later events are left out of the lists and of
                what they have seen; what was learned from them is not. Models with
                ``sequence.request_time`` also use the time since the last event. None: the time of
                the newest event of all; with ``before_test`` and such a model, that of each user's
                first test event.
            allow_seen: Whether lists may hold items that their user has seen; None: as
                ``evaluation.seen`` says, by default not.
            cold: Whether lists may hold cold items, and events be of them. The lists are then of
                the whole catalogue, in which cold items have scores predicted from their features.
            before_test: True: use only the events before the test split, for lists that are to be
                evaluated. False: use the whole log. None: False, with a warning if `fit` was given
                a test split.
            progress: Whether to show a progress bar.

        Returns:
            Columns ``user, rank, item, score, source``, best first, with ``title`` after the item
            if the model has titles; ``source`` is "model" or, for an unknown user, "popular".
            ``score`` is the value that the model ranks by, the sum of the terms of
            `emorec.inference.ranking`; it is comparable within one list only and missing for
            popular items. With ``diversity`` it need not fall from rank to rank. With ``cold``, the
            column ``cold`` says which items are cold. A model that
            predicts the polarity of items adds ``liked``, the probability that the user's feedback
            on the item is positive, or, for an unknown user, that any user's is. A user for whom no
            item is left has no row.

        Warns:
            UserWarning: If events are left out: without a rating, matched by no rule, of items
                without a train event, or of new users where the model has an embedding per user
                (``graph.user_embeddings``). If users are unknown, or ids in ``items`` or
                ``exclude``, which are left out. If ``before_test`` is missing where `fit` was given
                a test split.

        Raises:
            ValueError: If ``k`` is not a whole number of at least 1, the events cannot be used,
                ``users`` is not a list of ids, ``at`` is not a valid time or the log has no times.
                If ``items`` is empty or lacks a user, or no id in ``items`` or ``exclude`` is
                known. If ``min_liked`` or ``diversity`` is not in [0, 1], or the model lacks the
                predicted polarities or the vectors of items that it needs. If ``cold`` is true and
                the model has no cold items.
        """
        request = self._request(_as_list("users", users), events, at, before_test, cold=cold)
        lists = self._lists(request, k, items, exclude, min_liked, diversity, allow_seen)
        return self._shown(lists.all(progress), cold)

    def recommend_in_blocks(
        self,
        users: Iterable[Any],
        k: int = 10,
        events: Any = None,
        *,
        block: int = 10_000,
        items: ItemIds | None = None,
        exclude: ItemIds | None = None,
        min_liked: float | None = None,
        diversity: float = 0.0,
        at: Any = None,
        allow_seen: bool | None = None,
        cold: bool = False,
        before_test: bool | None = None,
        progress: bool = False,
    ) -> Iterator[pd.DataFrame]:
        """Recommends as `recommend` does, with the lists of some users at a time.

        One block of lists is in memory at a time, beside the events of all users asked for. Input
        is checked and warnings are given at the call, before the first block.

        Args:
            users: The users' own ids.
            k: Length of the lists.
            events: New events.
            block: Users at a time.
            items: Only these items may be listed.
            exclude: These items may not be listed.
            min_liked: Least P(liked) of a listed item.
            diversity: How far items are from those above them.
            at: Time of the request.
            allow_seen: Whether lists may hold items that their user has seen.
            cold: Whether lists may hold cold items.
            before_test: Whether to use only the events before the test split.
            progress: Whether to show a progress bar.

        Returns:
            An iterator over frames such as `recommend` returns, in the order of the users.

        Raises:
            ValueError: As `recommend`, or if ``block`` is not a whole number of at least 1.
        """
        _require_positive("block", block)
        request = self._request(_as_list("users", users), events, at, before_test, cold=cold)
        lists = self._lists(request, k, items, exclude, min_liked, diversity, allow_seen)
        return (self._shown(frame, cold) for frame in lists.blocks(int(block), progress))

    def score(
        self,
        pairs: Any,
        events: Any = None,
        *,
        at: Any = None,
        cold: bool = False,
        before_test: bool | None = None,
    ) -> pd.DataFrame:
        """Scores given pairs of users and items, seen ones included.

        Args:
            pairs: A list of (user, item), or a DataFrame with the columns user and item, or
                user_id and item_id, or those that the section ``data`` of the configuration names.
            events: New events, see `recommend`.
            at: Time of the request, see `recommend`; one for all pairs, or a list of one per pair.
            cold: Whether to score cold items, too; the column ``cold`` says which are.
            before_test: Whether to use only the events before the test split, see `recommend`.

        Returns:
            Columns ``user, item, score, source``, in the order given, ``title`` after the item if
            the model has titles, and ``liked`` if it predicts the polarity of items. The values are
            those of lists: ``score`` is comparable between items of one user only. For unknown
            users and those without an event, ``score`` is missing, ``liked`` is the probability of
            any user and ``source`` is "popular". For unknown items all three are missing.

        Warns:
            UserWarning: If pairs have no score, and as `recommend`.

        Raises:
            ValueError: If ``pairs`` are not pairs, the events cannot be used or ``at`` is not a
                valid time.
        """
        data = self.config.data
        users, items = columns_of_pairs(pairs, data.user_column, data.item_column)
        request = self._request(users, events, at, before_test, "scores", cold)
        reason = without_score(request, items)
        if reason is not None:
            warnings.warn(reason + ("" if cold else self._cold_hint(items)), stacklevel=2)
        return self._shown(score_pairs(request, items), cold)

    def similar_items(
        self, items: Iterable[Any], k: int = 10, *, by: By = "audience", cold: bool = False
    ) -> pd.DataFrame:
        """Finds the items most similar to each of some.

        Args:
            items: The items' own ids.
            k: Length of the lists; they are shorter where fewer items have a similarity above 0.
            by: "audience": the same people interact with them, by the counted similarities of the
                feedback graph (``graph.paths``) or, without these, the vectors of the feedback
                sum (``graph.conv=sum``). "taste": who likes the one probably likes the other, by
                the item vectors of the polarity head (``model.polarity=item``).
            cold: Whether to take and find cold items, too, by what is predicted from their
                features; the column ``cold`` says which of the similar items are cold.

        Returns:
            Columns ``item, rank, similar, similarity``, most similar first. ``similarity`` is a
            cosine, above 0 and at most 1; counted similarities have no upper limit and are
            comparable within one list only. Unknown items have no row. If the model has titles,
            ``title`` comes after ``item`` and ``similar_title`` after ``similar``.

        Warns:
            UserWarning: If items are unknown.

        Raises:
            ValueError: If ``items`` is not a list of ids, ``k`` is not a whole number of at least
                1, no item is known, or the model has no such similarities.
        """
        _require_positive("k", k)
        model, split = self._catalogue(cold)
        catalogue, wanted = split.log.items, _as_list("items", items)
        known, index = _known("item", wanted, catalogue, "" if cold else self._cold_hint(wanted))
        topk = similar_items(model, index, int(k), by)
        frame = self._titled(similar_frame("item", known, topk, catalogue))
        return self._shown(frame, cold, "similar", "similar_title")

    def similar_users(
        self, users: Iterable[Any], k: int = 10, *, by: By = "audience"
    ) -> pd.DataFrame:
        """Finds the users most similar to each of some, given all events of the log.

        Args:
            users: The users' own ids.
            k: Length of the lists; they are shorter where fewer users have a similarity above 0.
            by: "audience": they interact with similar items, by the users' vectors in the feedback
                sum (``graph.conv=sum``). "taste": they probably like and dislike the same, by the
                taste vectors of the polarity head (``model.polarity=item``).

        Returns:
            Columns ``user, rank, similar, similarity``, most similar first. ``similarity`` is a
            cosine, above 0 and at most 1. Unknown users have no row.

        Warns:
            UserWarning: If users are unknown.

        Raises:
            ValueError: If ``users`` is not a list of ids, ``k`` is not a whole number of at least
                1, no user is known, or the model has no such vectors.
        """
        _require_positive("k", k)
        log, device = self.split.log, self.config.training.device
        known, index = _known("user", _as_list("users", users), log.users)
        topk = similar_users(self.model, log, index, int(k), by, device)
        return similar_frame("user", known, topk, log.users)

    def _lists(
        self,
        request: Request,
        k: int,
        items: ItemIds | None,
        exclude: ItemIds | None,
        min_liked: float | None,
        diversity: float,
        allow_seen: bool | None,
    ) -> ListMaker:
        """What makes the lists; called by a public method, at whose caller warnings point."""
        _require_positive("k", k)
        _require_share("diversity", diversity)
        if min_liked is not None:
            _require_share("min_liked", min_liked)
            if not request.predicts_liked:
                raise ValueError(
                    f"min_liked is {min_liked}, but this model does not predict the polarity of "
                    "items: model.polarity is not 'item'; leave min_liked out"
                )
        seen = self.config.evaluation.seen
        if allow_seen is not None:
            seen = "include" if allow_seen else "exclude"
        whom = request.whom_not()
        if whom is not None:
            they = "who get" if len(request.users) > 1 else "who gets"
            warnings.warn(
                f"the model has no events of {whom}, {they} the most popular items", stacklevel=3
            )
        filters = None
        if items is not None or exclude is not None:
            filters = Filters(request.users, request.known.items, items, exclude)
        return ListMaker(request, k, seen, filters, min_liked, float(diversity))

    def _request(
        self,
        users: list[Any],
        events: Any,
        at: Any,
        before_test: bool | None,
        what: str = "lists",
        cold: bool = False,
    ) -> Request:
        """What is known of users; called by a public method, at whose caller warnings point."""
        model, split = self._catalogue(cold)
        if before_test is None and self._was_given_test:
            warnings.warn(
                f"these {what} use the test split"
                f"{' and leave its items out' if what == 'lists' else ''}; to evaluate them, give "
                "before_test=True, else before_test=False",
                stacklevel=3,
            )
        history = known = split.history if before_test else split.log
        later = None if events is None else self.read_events(events)
        if later is not None:
            known = history.followed_by(later)  # of users, too, that the model has no vector of
            takes_all = self._takes_users_of(later, history)
            history = known if takes_all else history.followed_by(later, new_users=False)
        times = newest_time(known)
        if at is not None:
            times = requests_at(at, users, known, split.log.time_unit)
        elif before_test and later is None and (tested := self._test_times()) is not None:
            times = tested
        return Request(model, users, history, known, times, self.config.training.device)

    def explain(
        self,
        user: Any,
        items: Iterable[Any] | None = None,
        k: int = 1,
        events: Any = None,
        *,
        at: Any = None,
        cold: bool = False,
        before_test: bool | None = None,
    ) -> list[Explanation]:
        """Explains why items are ranked where they are for a user.

        The user's events are left out one at a time; what an event adds is how much the score falls
        without it, in total and in each term of the ranking.

        Args:
            user: The user's own id, with at least one event.
            items: The items' own ids; None: the k items on top of the user's list.
            k: Number of items, without ``items``.
            events: New events, as in `recommend`.
            at: Time of the request, as in `recommend`.
            cold: Whether items may be cold, as in `recommend`.
            before_test: Whether to use only the events before the test split, as in `recommend`.

        Returns:
            One per item, in order; ``print`` of one shows it in words, and its attribute ``events``
            is a table.

        Raises:
            ValueError: If the user has no events, an item is unknown, or the scores of the model
                depend on more than the user's own events.

        Examples:
            >>> for explanation in recommender.explain("user-0001", k=2):  # doctest: +SKIP
            ...     print(explanation)
        """
        request = self._request([user], events, at, before_test, "explanations", cold)
        if not request.is_served[0]:
            raise ValueError(f"the model has no events of {request.whom_not()} to explain by")
        if items is None:
            lists = self.recommend(
                [user], k, events, at=at, cold=cold, before_test=bool(before_test)
            )
            items = lists["item"].tolist()
        wanted, history, index = list(items), request.history, int(request.index[0])
        chosen = history.items.indices(wanted)
        if (chosen < 0).any():
            unknown = wanted[int(np.flatnonzero(chosen < 0)[0])]
            raise ValueError(
                f"item {plain(unknown)!r} is not in the catalogue of the model"
                f"{'' if cold else self._cold_hint([unknown])}"
            )
        time, device = int(request.times[index]), self.config.training.device
        return explain(request.model, history, index, chosen, time, device, self._titles)

    def _shown(
        self, frame: pd.DataFrame, cold: bool, item: str = "item", title: str = "title"
    ) -> pd.DataFrame:
        """Adds the titles of a column of items and, with cold items, which ones are cold."""
        frame = self._titled(frame, item, title)
        if not cold or self._cold is None:
            return frame
        return frame.assign(cold=self._cold.are_cold(frame[item]))

    def _cold_hint(self, ids: Iterable[Any]) -> str:
        """What to do where ids are unknown because they are of cold items; empty if none is."""
        if self._cold is None or not self._cold.are_cold(ids).any():
            return ""
        return "; there are cold items among them, which need cold=True (--cold)"

    def _titled(
        self, frame: pd.DataFrame, item: str = "item", title: str = "title"
    ) -> pd.DataFrame:
        """Adds the titles of a column of items, if the model has titles."""
        return frame if self._titles is None else self._titles.add_to(frame, item, title)

    def read_events(self, events: Any) -> Interactions | None:
        """New events as interactions, read by the rules of the log; None if there are none."""
        frame = as_frame(events)
        if frame is not None:
            events = frame
        if isinstance(events, (Interactions, pd.DataFrame)) and not len(events):
            return None
        with warnings.catch_warnings():  # a few events need not be of every kind
            warnings.filterwarnings("ignore", message=".* matches no row")
            try:
                return self._log_of(events, is_new=False)
            except NoRuleMatches as error:
                reason = str(error).partition(" The rules:")[0]
        warnings.warn(f"{reason} All are left out.", stacklevel=4)
        return None

    def _log_of(self, data: Any, is_new: bool = True) -> Interactions:
        """Reads a log to train on or, if it is not new, events of a trained model."""
        if isinstance(data, Interactions):
            return data
        frame = as_frame(data)
        if frame is not None:
            data = frame  # a stream can be read once
        elif not isinstance(data, str | Path):
            kind = type(data)
            raise TypeError(
                "a log is a DataFrame with a row per event, Interactions, or the name of a file; "
                f"got {kind.__module__}.{kind.__qualname__}"
            )
        if is_store(data):
            return read_store(str(data))[0]
        options = self.config.data
        own = DATASETS[options.dataset].rules if options.dataset in DATASETS else ""
        rules = options.rules or own
        if not is_new:
            rules = rules or "ratings"  # that these are stars was seen in the log
        log, report = read_interactions(
            data, **options.reading, rules=rules or None, settable=is_new
        )
        if report.dropped_note:
            warnings.warn(report.dropped_note, stacklevel=3 if is_new else 5)
        if report.time_unit == "none" and is_new:
            warnings.warn(report.time_note, stacklevel=3)
        return log

    def _takes_users_of(self, events: Interactions, history: Interactions) -> bool:
        """Returns whether the model accepts new users; warns about events that it cannot use."""
        encoder = self.model.graph_encoder
        new_users = encoder is None or encoder.num_rows is None
        _warn_of_unknown(events.items, events.item, history.items, "items without a train event")
        if not new_users:
            what = "new users, and this model has an embedding per user"
            _warn_of_unknown(events.users, events.user, history.users, what)
        return new_users


def _as_list(name: str, ids: Any) -> list[Any]:
    """The ids that a caller gives for several users or items.

    Raises:
        ValueError: If they are one id, or not a list.
    """
    if isinstance(ids, str):
        raise ValueError(f"{name} must be a list of ids, such as [{ids!r}], got {ids!r}")
    if isinstance(ids, pd.DataFrame | dict):
        raise ValueError(f"{name} must be a list of ids, got a {type(ids).__name__}")
    try:
        return list(ids)
    except TypeError:
        raise ValueError(f"{name} must be a list of ids, got {plain(ids)!r}") from None


def _known(
    what: str, ids: list[Any], vocabulary: Vocabulary, hint: str = ""
) -> tuple[list[Any], np.ndarray]:
    """The known ones of some ids, and their indices, int64 ``[N]``; warns about the others."""
    index = vocabulary.indices(ids)
    unknown = np.flatnonzero(index < 0)
    if len(unknown):
        first, whom = plain(ids[unknown[0]]), f"{len(unknown):,} of {count(len(ids), what)}"
        if len(unknown) == len(ids):
            raise ValueError(
                f"no {what} of the {len(ids):,} given is known, such as {first!r}; give ids as in "
                f"the log{hint}"
            )
        warnings.warn(f"unknown to the model: {whom}, such as {first!r}{hint}", stacklevel=3)
    known = [each for each, place in zip(ids, index, strict=True) if place >= 0]
    return known, index[index >= 0]


def _require_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {plain(value)!r}")


def _require_share(name: str, value: Any) -> None:
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {number!r}")


def _warn_of_unknown(ids: Vocabulary, column: np.ndarray, known: Vocabulary, what: str) -> None:
    is_unknown = (known.indices(ids.ids) < 0)[column]
    if is_unknown.any():
        first = ids.lookup(column[is_unknown][:1])[0]
        warnings.warn(
            f"{is_unknown.sum():,} of {len(column):,} events are left out: they are of "
            f"{what}, such as {first!r}",
            stacklevel=5,
        )
