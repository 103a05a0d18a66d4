"""The four kinds of feedback and their two axes."""

from __future__ import annotations

from enum import IntEnum

from emorec.texts import shortened

__all__ = ["Feedback"]


class Feedback(IntEnum):
    """Kind of feedback of an interaction, from most positive to most negative.

    The kinds span two axes: polarity (positive or negative) and explicitness (stated by the user,
    or inferred from behaviour). Their values index tables and are stored as int8.
    """

    EXPLICIT_POSITIVE = 0
    IMPLICIT_POSITIVE = 1
    IMPLICIT_NEGATIVE = 2
    EXPLICIT_NEGATIVE = 3

    @property
    def label(self) -> str:
        """Lower-case name, as in rule files and graph node types."""
        return self.name.lower()

    @property
    def is_positive(self) -> bool:
        """Whether the feedback is positive."""
        return self <= Feedback.IMPLICIT_POSITIVE

    @property
    def is_explicit(self) -> bool:
        """Whether the user stated it."""
        return self in (Feedback.EXPLICIT_POSITIVE, Feedback.EXPLICIT_NEGATIVE)

    @property
    def polarity(self) -> int:
        """+1 for positive, -1 for negative feedback."""
        return 1 if self.is_positive else -1

    @classmethod
    def from_label(cls, label: str) -> Feedback:
        """The kind of feedback with this label.

        Raises:
            ValueError: If no kind has that label.
        """
        for feedback in cls:
            if feedback.label == label:
                return feedback
        known = ", ".join(feedback.label for feedback in cls)
        raise ValueError(f"unknown kind of feedback {shortened(label)!r}; the kinds are {known}")
