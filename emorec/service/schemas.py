"""What the service takes and returns, as JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from emorec.data.feedback import Feedback

__all__ = [
    "EventIn",
    "EventsIn",
    "EventsOut",
    "ListOut",
    "RecommendationsIn",
]

Id = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Kind = Literal["explicit_positive", "implicit_positive", "implicit_negative", "explicit_negative"]
MOST_EVENTS = 1_000  # of a request
MOST_ITEMS = 10_000  # of a list of candidates or exclusions


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class EventIn(_Strict):
    """What a user did: a kind of feedback, or the columns that the run's feedback rules ask for."""

    item: Id
    feedback: Kind | None = Field(None, description="the kind of feedback, if it is known")
    behaviour: dict[str, str | float | int | bool | None] | None = Field(
        None,
        max_length=100,
        description="columns of the run's log, such as rating; the run's own rules decide the kind",
        examples=[{"rating": 5}],
    )
    time: datetime | float | None = Field(
        None,
        description="ISO 8601 (without a zone: UTC) or seconds since 1970; default: now",
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> EventIn:
        if (self.feedback is None) == (self.behaviour is None):
            raise ValueError("give either feedback or behaviour")
        return self

    def time_us(self, now_us: int) -> int:
        """The time in microseconds since 1970.

        Raises:
            ValueError: If it is out of range.
        """
        if self.time is None:
            return now_us
        if isinstance(self.time, datetime):
            at = self.time if self.time.tzinfo else self.time.replace(tzinfo=UTC)
            return round(at.timestamp() * 1_000_000)
        if not abs(self.time) < 2**53 / 1_000_000:
            raise ValueError(f"time {self.time} is not a number of seconds since 1970")
        return round(self.time * 1_000_000)

    @property
    def kind(self) -> int | None:
        """The kind of feedback as a number, if it is given."""
        return None if self.feedback is None else int(Feedback.from_label(self.feedback))


class UserEventIn(EventIn):
    """What a user did, with the user and, to be sent again safely, an id of its own."""

    user: Id
    id: Id | None = Field(
        None, description="the caller's id of the event: sent again, it is not added again"
    )


class EventsIn(_Strict):
    """Events, one or many."""

    events: list[UserEventIn] = Field(min_length=1, max_length=MOST_EVENTS)


class EventsOut(BaseModel):
    """What became of events; those that were added are on disk."""

    added: int
    duplicates: int = Field(description="events whose id was there already")
    dropped: int = Field(description="events that no feedback rule of the run matches")
    unknown_items: int = Field(
        description="events with items that the model does not know yet; kept for retraining"
    )


class RecommendationsIn(_Strict):
    """A list for a history that belongs to no user."""

    events: list[EventIn] = Field(default=[], max_length=MOST_EVENTS)
    k: int = Field(10, ge=1, le=1_000)
    aversion: float | None = Field(None, ge=0, le=1_000)
    candidates: list[Id] | None = Field(None, min_length=1, max_length=MOST_ITEMS)
    exclude: list[Id] = Field(default=[], max_length=MOST_ITEMS)
    allow_seen: bool | None = None


class ItemOut(BaseModel):
    """An item of a list."""

    item: Any
    title: str | None = None
    score: float | None = Field(None, description="comparable within one list only")
    liked: float | None = Field(None, description="predicted probability of positive feedback")


class ListOut(BaseModel):
    """A list, best first."""

    items: list[ItemOut]
    source: Literal["model", "popular"]
    model: str = Field(description="name of the run that made it")


class SimilarOut(BaseModel):
    """An item that is similar to another one."""

    item: Any
    title: str | None = None
    similarity: float


class HistoryEventOut(BaseModel):
    """An event of a user's history."""

    item: Any
    title: str | None = None
    feedback: Kind
    time: datetime


class ReasonOut(BaseModel):
    """How much an event adds to an item's score."""

    item: Any
    title: str | None = None
    feedback: Kind
    newer: int = Field(description="number of the user's newer events")
    effect: float = Field(description="the score less the score without this event")


class ExplanationOut(BaseModel):
    """Why an item has its score."""

    item: Any
    title: str | None = None
    score: float
    liked: float | None
    terms: dict[str, float] = Field(description="of the ranking; they sum to the score")
    events: list[ReasonOut] = Field(description="the largest effect first")


class ModelOut(BaseModel):
    """The model that serves."""

    name: str
    preset: str
    users: int
    items: int
    aversion: float
    loaded: datetime
    previous: str | None = Field(description="what POST /model/rollback goes back to")


class RunIn(_Strict):
    """A run to serve."""

    name: Id = Field(description="name of a run folder beside the one that was started with")


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
