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

NO_NUL = r"^[^\x00]*$"  # PostgreSQL keeps no text with it
Id = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=NO_NUL)]
Kind = Literal["explicit_positive", "implicit_positive", "implicit_negative", "explicit_negative"]
_MOST_SECONDS = 2**53 / 1_000_000  # 285 years from 1970: microseconds are exact
MOST_EVENTS = 1_000  # of a request
MOST_ITEMS = 10_000  # of a list of candidates or exclusions


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


class EventIn(_Strict):
    """What a user did: a kind of feedback, or the columns that the run's feedback rules ask for."""

    item: Id = Field(examples=["t07-0000"])
    feedback: Kind | None = Field(
        None,
        description="the kind of feedback, if it is known",
        examples=["explicit_positive"],
    )
    behaviour: dict[str, str | float | int | bool | None] | None = Field(
        None,
        max_length=100,
        description="columns of the run's log, such as rating; the run's own rules decide the kind",
        examples=[{"rating": 5}],
    )
    time: datetime | float | None = Field(
        None,
        description="ISO 8601 (without a zone: UTC) or seconds since 1970; default: now",
        examples=["2026-11-29T10:00:00Z"],
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
            seconds = at.timestamp()
        else:
            seconds = self.time
        if not abs(seconds) < _MOST_SECONDS:
            raise ValueError(
                f"{self.time} is not a number of seconds since 1970, or too far from it"
            )
        return round(seconds * 1_000_000)

    @property
    def kind(self) -> int | None:
        """The kind of feedback as a number, if it is given."""
        return None if self.feedback is None else int(Feedback.from_label(self.feedback))


class UserEventIn(EventIn):
    """What a user did, with the user and, to be sent again safely, an id of its own."""

    user: Id = Field(examples=["ann"])
    id: Id | None = Field(
        None,
        description="the caller's id of the event: sent again, it is not added again",
        examples=["7f3a"],
    )


class EventsIn(_Strict):
    """Events, one or many."""

    events: list[UserEventIn] = Field(
        min_length=1,
        max_length=MOST_EVENTS,
        examples=[
            [
                {"user": "ann", "item": "t07-0000", "behaviour": {"rating": 5}},
                {"user": "ann", "item": "t08-0001", "feedback": "explicit_negative", "id": "7f3a"},
            ]
        ],
    )


class EventsOut(BaseModel):
    """What became of events; those that were added are on disk."""

    added: int = Field(examples=[2])
    duplicates: int = Field(description="events whose id was there already", examples=[0])
    dropped: int = Field(
        description="events that no feedback rule of the run matches", examples=[0]
    )
    unknown_items: int = Field(
        description="events with items that the model does not know yet; kept for retraining",
        examples=[0],
    )


class RecommendationsIn(_Strict):
    """A list for a history that belongs to no user."""

    events: list[EventIn] = Field(
        default=[],
        max_length=MOST_EVENTS,
        examples=[[{"item": "t07-0000", "feedback": "explicit_positive"}]],
    )
    k: int = Field(10, ge=1, le=1_000)
    aversion: float | None = Field(None, ge=0, le=1_000, examples=[2])
    candidates: list[Id] | None = Field(
        None, min_length=1, max_length=MOST_ITEMS, examples=[["t01-0005", "t02-0001"]]
    )
    exclude: list[Id] = Field(default=[], max_length=MOST_ITEMS, examples=[["t03-0002"]])
    allow_seen: bool | None = None


class ItemOut(BaseModel):
    """An item of a list."""

    item: Any = Field(examples=["t02-0001"])
    title: str | None = None
    score: float | None = Field(
        None, description="comparable within one list only", examples=[7.25]
    )
    liked: float | None = Field(
        None, description="predicted probability of positive feedback", examples=[0.81]
    )


class ListOut(BaseModel):
    """A list, best first."""

    items: list[ItemOut]
    source: Literal["model", "popular"]
    model: str = Field(description="name of the run that made it", examples=["my-run"])


class SimilarOut(BaseModel):
    """An item that is similar to another one."""

    item: Any = Field(examples=["t02-0001"])
    title: str | None = None
    similarity: float = Field(examples=[0.42])


class HistoryEventOut(BaseModel):
    """An event of a user's history."""

    item: Any = Field(examples=["t07-0000"])
    title: str | None = None
    feedback: Kind
    time: datetime


class ReasonOut(BaseModel):
    """How much an event adds to an item's score."""

    item: Any = Field(examples=["t07-0000"])
    title: str | None = None
    feedback: Kind
    newer: int = Field(description="number of the user's newer events", examples=[1])
    effect: float = Field(
        description="the score less the score without this event", examples=[0.63]
    )


class ExplanationOut(BaseModel):
    """Why an item has its score."""

    item: Any = Field(examples=["t02-0001"])
    title: str | None = None
    score: float = Field(examples=[7.25])
    liked: float | None = Field(examples=[0.81])
    terms: dict[str, float] = Field(
        description="of the ranking; they sum to the score",
        examples=[{"next_item": 4.5, "graph": 2.0, "paths": 1.0, "liked": -0.25, "dislikes": 0.0}],
    )
    events: list[ReasonOut] = Field(description="the largest effect first")


class ModelOut(BaseModel):
    """The model that serves."""

    name: str = Field(examples=["my-next-run"])
    preset: str = Field(examples=["emorec"])
    users: int = Field(examples=[6040])
    items: int = Field(examples=[3706])
    aversion: float = Field(examples=[1])
    loaded: datetime
    previous: str | None = Field(
        description="what POST /model/rollback goes back to", examples=["my-run"]
    )


class RunIn(_Strict):
    """A run to serve."""

    name: Id = Field(
        description="name of a run folder beside the one that was started with",
        examples=["my-next-run"],
    )


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["item 'x' is not in the catalogue of the model"])
