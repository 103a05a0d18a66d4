"""What the service keeps of a user gives the lists that a computation from scratch gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
pytest.importorskip("httpx2", reason="needs httpx2, of the extra dev")
from fastapi.testclient import TestClient  # noqa: E402

from emorec import EmoRec  # noqa: E402
from emorec.data.feedback import Feedback  # noqa: E402
from emorec.data.synthetic import generate  # noqa: E402
from emorec.service.app import Settings, create_app  # noqa: E402
from emorec.service.ranker import Ask, History, Ranker  # noqa: E402
from tests.small import small_config  # noqa: E402

LOG = generate(num_users=20, num_items=60, num_topics=8, events_per_user=12).interactions
ITEMS = LOG.items.ids
OLD = LOG.users.ids[0]  # has events in the run's log

events = st.tuples(
    st.sampled_from(["new", OLD]),
    st.integers(0, 9),  # item
    st.sampled_from([kind.label for kind in Feedback]),
    st.integers(1, 8),  # time: equal ones keep the order of arrival
    st.integers(0, 30),  # the event's own id: some are sent again
)
steps = st.lists(
    st.one_of(
        st.lists(events, min_size=1, max_size=4),
        st.tuples(
            st.just("list"), st.sampled_from(["new", OLD]), st.sampled_from([None, 0.0, 3.0])
        ),
        st.tuples(st.just("forget"), st.sampled_from(["new", OLD])),
        st.tuples(st.just("switch"), st.sampled_from(["one", "two"])),
    ),
    max_size=14,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs whose sequences hold five events, so that some are pushed out."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("one", 1), ("two", 2)):
        options = ("training.epochs=1", f"training.seed={seed}", "sequence.max_length=6")
        EmoRec(config=small_config(*options, preset="emorec")).fit(LOG, progress=False).save(
            folder / name
        )
    return folder


@pytest.fixture(scope="module")
def rankers(runs):
    return {name: Ranker(EmoRec.load(runs / name, backend="torch")) for name in ("one", "two")}


class Expected:
    """The events of users, kept in the simplest way."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, int, int, str]] = []
        self.forgotten: set[str] = set()

    def add(self, user, item, feedback, time_us, key):
        if key not in {row[-1] for row in self.rows}:
            self.rows.append((user, item, int(Feedback.from_label(feedback)), time_us, key))

    def forget(self, user):  # and the events' own ids
        self.rows = [row for row in self.rows if row[0] != user]
        self.forgotten.add(user)

    def history(self, user, ranker):
        index = ranker.index_of(ITEMS)
        rows = [(int(index[item]), kind, at) for who, item, kind, at, _ in self.rows if who == user]
        if user not in self.forgotten:
            logged = ranker.history_in_log(user)
            known = zip(logged.item, logged.feedback, logged.time_us, strict=True)
            rows = [*known, *rows]
        return History.of(*(zip(*rows, strict=True) if rows else ([], [], [])))


@given(steps)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_lists_are_those_from_scratch(runs, rankers, tmp_path_factory, steps):
    url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'events.db'}"
    expected, serving = Expected(), "one"
    with TestClient(create_app(Settings(runs / "one", url))) as client:
        for step in [*steps, ("list", "new", None), ("list", OLD, None)]:
            if isinstance(step, list):
                sent = [
                    {"user": user, "item": ITEMS[item], "feedback": kind, "time": at, "id": f"{n}"}
                    for user, item, kind, at, n in step
                ]
                assert client.post("/events", json={"events": sent}).status_code == 201
                for user, item, kind, at, n in step:
                    expected.add(user, item, kind, at * 1_000_000, f"{n}")
            elif step[0] == "forget":
                client.delete(f"/users/{step[1]}")
                expected.forget(step[1])
            elif step[0] == "switch":
                serving = step[1]
                assert client.post("/model", json={"name": serving}).status_code == 200
            else:
                _, user, aversion = step
                params = {} if aversion is None else {"aversion": aversion}
                found = client.get(f"/users/{user}/recommendations", params=params).json()
                ranker = rankers[serving]
                (right,) = ranker.rank([Ask(expected.history(user, ranker), aversion=aversion)])
                assert found["source"] == right.source and found["model"] == serving
                if right.score is not None:
                    scores = [each["score"] for each in found["items"]]
                    np.testing.assert_allclose(scores, right.score, rtol=1e-4, atol=1e-4)
                assert [each["item"] for each in found["items"]] == [
                    ranker.named[item]["item"] for item in right.item
                ]
