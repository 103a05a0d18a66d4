"""Lists of models with and without what most of them have; others are in test_service.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
pytest.importorskip("httpx2", reason="needs httpx2, of the extra dev")
from fastapi.testclient import TestClient  # noqa: E402

from emorec import EmoRec  # noqa: E402
from emorec.data.sequences import EventSequences  # noqa: E402
from emorec.data.synthetic import generate  # noqa: E402
from emorec.service.app import Settings, create_app  # noqa: E402
from emorec.service.ranker import Ask, Ranker  # noqa: E402
from tests.small import small_config  # noqa: E402

LOG = generate(num_users=30, num_items=60, num_topics=8, events_per_user=12).interactions
USER, ITEMS = LOG.users.ids[3], LOG.items.ids


def fitted(preset, *settings, log=LOG):
    config = small_config("training.epochs=1", *settings, preset=preset)
    return EmoRec(config=config).fit(log, progress=False)


@pytest.fixture(scope="module")
def graph():
    """A model without a sequence encoder, which predicts no probabilities."""
    return fitted("emorec-graph", "graph.conv=none", "graph.paths=9", "model.aversion=0")


def test_a_model_without_probabilities(graph):
    ranker = Ranker(graph)
    history = ranker.history_in_log(USER)
    (listed,) = ranker.rank([Ask(history, k=5)])
    expected = graph.recommend([USER], k=5)
    assert ranker.items.lookup(listed.item) == expected["item"].tolist()
    assert listed.liked is None and listed.source == "model"
    (popular,) = ranker.rank([Ask(ranker.history_in_log("nobody"))])
    assert popular.liked is None and popular.source == "popular"


def test_times_in_nanoseconds(graph):
    ranker = Ranker(graph)
    before = ranker.history_in_log(USER)
    log = graph.split.log
    finer = replace(log, time=log.time * 10**9 + 999, time_unit="ns")
    ranker._log = EventSequences.build(finer)
    found = ranker.history_in_log(USER)
    assert log.time_unit == "s" and len(before)
    np.testing.assert_array_equal(found.time_us, before.time_us)
    np.testing.assert_array_equal(found.item, before.item)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model whose lists depend on the time of the request."""
    folder = tmp_path_factory.mktemp("run") / "run"
    fitted("emorec", "sequence.request_time=true").save(folder)
    return folder


class TestTimeOfTheRequest:
    def test_lists_are_of_now(self, run, monkeypatch):
        recommender = EmoRec.load(run)
        ranker = Ranker(recommender)
        assert not ranker.is_timeless
        history = ranker.history_in_log(USER)
        now = int(LOG.time.max()) + 86_400 * 3
        monkeypatch.setattr("emorec.service.ranker.time.time_ns", lambda: now * 10**9)
        (listed,) = ranker.rank([Ask(history, k=5)])
        expected = recommender.recommend([USER], k=5, at=now)
        assert ranker.items.lookup(listed.item) == expected["item"].tolist()
        assert listed.score == pytest.approx(expected["score"].tolist(), abs=1e-3)
        # A clock that is behind the newest event does not count.
        monkeypatch.setattr("emorec.service.ranker.time.time_ns", lambda: 0)
        (listed,) = ranker.rank([Ask(history, k=5)])
        expected = recommender.recommend([USER], k=5, at=int(history.time_us[-1] // 10**6))
        assert ranker.items.lookup(listed.item) == expected["item"].tolist()

    def test_lists_are_not_remembered(self, run, tmp_path):
        with TestClient(create_app(Settings(run, f"sqlite:///{tmp_path / 'e.db'}"))) as client:
            answer = client.get(f"/users/{USER}/recommendations")
            assert answer.status_code == 200 and answer.json()["source"] == "model"
            assert not client.app.state.serving.served.lists


def test_what_a_model_has_no_similarities_for_is_refused(tmp_path):
    fitted("emorec", "graph.conv=none", "graph.paths=0").save(tmp_path / "run")
    with TestClient(create_app(Settings(tmp_path / "run", f"sqlite:///{tmp_path / 'e.db'}"))) as c:
        answer = c.get(f"/items/{ITEMS[0]}/similar")
        assert answer.status_code == 422 and "graph.conv is not 'sum'" in answer.json()["detail"]
        assert c.get(f"/items/{ITEMS[0]}/similar", params={"by": "taste"}).status_code == 200


def test_rules_of_a_log_without_times(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('explicit_positive = "rating == 5"\nexplicit_negative = "rating == 1"\n')
    settings = "data.time_column=", f"data.rules={rules}"
    fitted("emorec-graph", *settings).save(tmp_path / "run")
    url = f"sqlite:///{tmp_path / 'e.db'}"
    with TestClient(create_app(Settings(tmp_path / "run", url))) as client:
        for ratings, added in (((5, 3), 1), ((3, 3), 0)):
            events = [
                {"user": "new", "item": ITEMS[0], "behaviour": {"rating": each}} for each in ratings
            ]
            answer = client.post("/events", json={"events": events})
            assert answer.status_code == 201, answer.text
            dropped = len(ratings) - added
            assert answer.json() == {
                "added": added, "duplicates": 0, "dropped": dropped, "unknown_items": 0
            }  # fmt: skip
        (event,) = client.get("/users/new/history").json()
        assert event["feedback"] == "explicit_positive"
