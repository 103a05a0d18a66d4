"""Figures of the service, for Prometheus; those of all workers together."""

from __future__ import annotations

import os
from collections import OrderedDict
from threading import Lock

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from emorec.data.feedback import Feedback
from emorec.service.ranker import Ranker
from emorec.service.store import Event

__all__ = ["SHARED_FOLDER", "Metrics"]

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Variable of the folder in which workers share their figures; set before the first import."""

_MOST_SHOWN = 10_000  # users whose last list is remembered
_REMEMBERED = 1_000  # events that the drift is about
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Times of answers, events by kind, and what people think of what they were shown."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._answers = Histogram(
            "emorec_answer_seconds",
            "Time until an answer, by route.",
            ("method", "route", "status"),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._events = Counter(
            "emorec_events", "Events taken, by kind.", ("kind",), registry=self._registry
        )
        self._judged = Counter(
            "emorec_shown_judged",
            "Events on items of the user's last list, by kind. The share of dislikes among them is "
            "that of the lists.",
            ("kind",),
            registry=self._registry,
        )
        self._share = Gauge(
            "emorec_log_share",
            "Share of each kind in the log of the model.",
            ("kind",),
            registry=self._registry,
            multiprocess_mode="mostrecent",
        )
        self._drift = Gauge(
            "emorec_kind_drift",
            f"Distance of the kinds of the newest {_REMEMBERED:,} or so events from those in the "
            "log of the model: 0 if their shares are equal, 1 if they have no kind in common.",
            registry=self._registry,
            multiprocess_mode="livemax",
        )
        self._logged = np.full(len(Feedback), 1 / len(Feedback))
        self._recent = self._logged
        self._shown: OrderedDict[str, set[str]] = OrderedDict()
        self._lock = Lock()

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Notes an answer."""
        self._answers.labels(method, route, str(status)).observe(seconds)

    def serves(self, ranker: Ranker) -> None:
        """Notes the model that serves from now on."""
        counts = ranker.recommender.split.log.feedback_counts()
        total = max(1, sum(counts.values()))
        for kind, number in counts.items():
            self._share.labels(kind.label).set(number / total)
        with self._lock:
            self._logged = np.array([counts[kind] / total for kind in Feedback])
            self._recent = self._logged
            self._drift.set(0)

    def took(self, event: Event) -> None:
        """Notes an event."""
        kind = Feedback(event.feedback).label
        self._events.labels(kind).inc()
        with self._lock:
            # A moving average, total variation distance.
            new = np.arange(len(Feedback)) == event.feedback
            self._recent = self._recent + (new - self._recent) / _REMEMBERED
            self._drift.set(float(abs(self._recent - self._logged).sum()) / 2)
            if event.item in self._shown.get(event.user, ()):
                self._judged.labels(kind).inc()

    def showed(self, user: str, items: list[str]) -> None:
        """Notes a list."""
        with self._lock:
            self._shown[user] = set(items)
            self._shown.move_to_end(user)
            while len(self._shown) > _MOST_SHOWN:
                self._shown.popitem(last=False)

    def forgot(self, user: str) -> None:
        """Drops what is remembered of a user."""
        with self._lock:
            self._shown.pop(user, None)

    def text(self) -> bytes:
        """All figures, in Prometheus's format."""
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)

    def close(self) -> None:
        """Ends this worker's share in what is live."""
        if SHARED_FOLDER in os.environ:
            mark_process_dead(os.getpid())
