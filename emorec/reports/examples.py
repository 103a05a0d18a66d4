"""Users as examples: what they did, what they would get, and why."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from emorec.data.feedback import Feedback
from emorec.texts import count, visible

__all__ = ["Example", "ListedItem", "PastEvent", "examples_html"]

_MOST_LETTERS = 120  # of a title or an id


@dataclass(frozen=True)
class PastEvent:
    """An event of a user's history.

    Attributes:
        item: The item's title, or its id.
        feedback: The kind of feedback.
    """

    item: str
    feedback: Feedback


@dataclass(frozen=True)
class ListedItem:
    """An item of a list.

    Attributes:
        item: The item's title, or its id.
        liked: Predicted P(positive), or None.
        reason: The event that raises the item most, in words; empty without one.
        held_out: The feedback of the user's held-out event with it, or None.
    """

    item: str
    liked: float | None = None
    reason: str = ""
    held_out: Feedback | None = None


@dataclass(frozen=True)
class Example:
    """A user, with the newest events before the test split and the list given them.

    Attributes:
        user: The user's own id.
        num_events: Length of the history.
        num_held_out: Number of held-out items.
        events: The newest events, the newest first.
        items: The list, best first.
    """

    user: str
    num_events: int
    num_held_out: int
    events: Sequence[PastEvent] = field(default_factory=list)
    items: Sequence[ListedItem] = field(default_factory=list)


def examples_html(examples: Sequence[Example], note: str) -> str:
    """The examples as HTML, titles and ids escaped; empty without any.

    Args:
        examples: The users.
        note: How they were chosen, and how reasons are found.
    """
    if not examples:
        return ""
    return f'<p class="note">{html.escape(note)}</p>' + "".join(map(_example_html, examples))


def _example_html(example: Example) -> str:
    about = f"{count(example.num_events, 'event')}, {count(example.num_held_out, 'held-out item')}"
    events = "".join(
        f"<li>{_mark(event.feedback)} {_text(event.item)}</li>" for event in example.events
    )
    rows = "".join(_row_html(rank, item) for rank, item in enumerate(example.items, start=1))
    has_liked = any(item.liked is not None for item in example.items)
    return (
        f'<article class="user"><h3>user {_text(example.user)} <small>{about}</small></h3>'
        f'<div class="two"><div><h4>newest events</h4><ul class="events">{events}</ul></div>'
        f"<div><h4>list{', with predicted P(liked)' if has_liked else ''}</h4>"
        f'<ol class="list">{rows}</ol></div></div></article>'
    )


def _row_html(rank: int, item: ListedItem) -> str:
    liked = "" if item.liked is None else f' <span class="liked">{item.liked:.2f}</span>'
    held_out = "" if item.held_out is None else f" {_mark(item.held_out, 'held out: ')}"
    reason = f"<br><small>{_text(item.reason)}</small>" if item.reason else ""
    return f'<li value="{rank}">{_text(item.item)}{liked}{held_out}{reason}</li>'


def _mark(kind: Feedback, before: str = "") -> str:
    """The kind of feedback as a coloured mark with its name; colour alone says nothing to some."""
    name = kind.label.replace("_", " ")
    return f'<span class="mark"><i class="k{kind.value}"></i>{before}{name}</span>'


def _text(value: str) -> str:
    shown = visible(value)
    return html.escape(shown if len(shown) <= _MOST_LETTERS else f"{shown[:_MOST_LETTERS]}…")
