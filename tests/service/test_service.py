"""The service, asked over HTTP."""

from __future__ import annotations

import asyncio
import shutil
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
pytest.importorskip("httpx2", reason="needs httpx2, of the extra dev")
from fastapi.testclient import TestClient  # noqa: E402

from emorec import EmoRec  # noqa: E402
from emorec.data.feedback import Feedback  # noqa: E402
from emorec.data.stores import read_store  # noqa: E402
from emorec.data.synthetic import generate  # noqa: E402
from emorec.service.app import Settings, create_app  # noqa: E402
from emorec.service.serving import Serving  # noqa: E402
from emorec.service.store import StoreError  # noqa: E402
from tests.small import small_config  # noqa: E402

LOG = generate(num_users=30, num_items=60, num_topics=8, events_per_user=12).interactions
USER, ITEMS = LOG.users.ids[3], LOG.items.ids


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs side by side."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("one", 1), ("two", 2)):
        config = small_config("training.epochs=1", f"training.seed={seed}", preset="emorec")
        EmoRec(config=config).fit(LOG, progress=False).save(folder / name)
    return folder


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'events.db'}"


@pytest.fixture
def client(runs, url):
    with TestClient(create_app(Settings(runs / "one", url))) as client:
        yield client


def post(client, *events):
    response = client.post("/events", json={"events": list(events)})
    assert response.status_code == 201, response.text
    return response.json()


def event(item, feedback="explicit_positive", user="new", **more):
    return {"user": user, "item": item, "feedback": feedback, **more}


def items(response):
    assert response.status_code == 200, response.text
    return [each["item"] for each in response.json()["items"]]


def problem(response, status, message):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status and message in body["detail"], body


class TestLists:
    def test_are_those_of_the_recommender(self, client, runs):
        recommender = EmoRec.load(runs / "one", backend="torch")
        for user in LOG.users.ids[:5]:
            for options in ({}, {"aversion": 3}, {"aversion": 0}, {"allow_seen": True}):
                asked = {key: value for key, value in options.items() if key != "aversion"}
                recommender.model.aversion = options.get("aversion", 1.0)
                expected = recommender.recommend([user], k=7, **asked)
                found = client.get(f"/users/{user}/recommendations", params={"k": 7, **options})
                assert items(found) == expected["item"].tolist()
                rows = found.json()["items"]
                np.testing.assert_allclose(
                    [row["score"] for row in rows], expected["score"], rtol=1e-3, atol=1e-4
                )
                np.testing.assert_allclose(
                    [row["liked"] for row in rows], expected["liked"], rtol=1e-3, atol=1e-4
                )

    def test_new_events_count_at_once(self, client, runs):
        before = client.get("/users/new/recommendations")
        assert before.json()["source"] == "popular"
        post(client, event(ITEMS[0], time=1), event(ITEMS[1], "explicit_negative", time=2))
        after = client.get("/users/new/recommendations")
        assert after.json()["source"] == "model"
        assert not {ITEMS[0], ITEMS[1]} & set(items(after))
        same = client.post(
            "/recommendations",
            json={
                "events": [
                    {"item": ITEMS[1], "feedback": "explicit_negative", "time": 2},
                    {"item": ITEMS[0], "feedback": "explicit_positive", "time": 1},
                ]
            },
        )
        assert same.json() == after.json()

    def test_filters(self, client):
        some = list(ITEMS[5:12])
        found = client.get(f"/users/{USER}/recommendations", params={"candidates": some, "k": 50})
        assert 0 < len(items(found)) and set(items(found)) <= set(some)
        first = items(found)[0]
        rest = client.get(
            f"/users/{USER}/recommendations", params={"candidates": some, "exclude": [first]}
        )
        assert first not in items(rest)
        wrong = client.get(f"/users/{USER}/recommendations", params={"candidates": ["nothing"]})
        problem(wrong, 422, "candidates: none of 1 items is known")

    def test_many_at_once_are_those_of_each_alone(self, client):
        alone = {
            user: items(client.get(f"/users/{user}/recommendations")) for user in LOG.users.ids
        }
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(16) as pool:
            paths = [f"/users/{user}/recommendations" for user in LOG.users.ids * 3]
            together = list(pool.map(client.get, paths))
        for user, found in zip(LOG.users.ids * 3, together, strict=True):
            assert items(found) == alone[user]


class TestEvents:
    def test_the_rules_of_the_run_decide_the_kind(self, client):
        body = {"user": "new", "item": ITEMS[0]}
        kinds = []
        for rating in (5, 4, 3, 1):
            added = post(client, body | {"behaviour": {"rating": rating}, "time": rating})
            assert added == {"added": 1, "duplicates": 0, "dropped": 0, "unknown_items": 0}
        for row in client.get("/users/new/history").json():
            kinds.append(row["feedback"])
        assert kinds == [
            "explicit_positive", "implicit_positive", "implicit_negative", "explicit_negative"
        ]  # fmt: skip

    def test_an_event_that_is_sent_again_is_not_added_again(self, client):
        first = post(client, event(ITEMS[0], id="a"), event(ITEMS[1], id="b"))
        again = post(client, event(ITEMS[0], id="a"), event(ITEMS[2], id="c"))
        assert (first["added"], again["added"], again["duplicates"]) == (2, 1, 1)
        disliked = post(client, event(ITEMS[0], id="a"), event(ITEMS[3], "explicit_negative"))
        assert disliked["added"] == 1  # and only that one is in the figures
        assert 'emorec_events_total{kind="explicit_negative"} 1.0' in client.get("/metrics").text
        assert 'emorec_events_total{kind="explicit_positive"} 3.0' in client.get("/metrics").text
        assert len(client.get("/users/new/history").json()) == 4

    def test_order_of_arrival_does_not_matter(self, client):
        rng = np.random.default_rng(0)
        kinds = ("explicit_positive", "explicit_negative", "implicit_negative")
        events = [event(ITEMS[n], kinds[n % 3], time=1000.0 + n) for n in range(12)]
        lists = []
        for number in range(4):
            for place in rng.permutation(len(events)):
                post(client, events[place] | {"user": f"user {number}"})
            lists.append(items(client.get(f"/users/user {number}/recommendations")))
        assert lists[0] == lists[1] == lists[2] == lists[3]

    def test_events_of_unknown_items_are_kept_for_training(self, client, url):
        added = post(client, event("never seen"), event(ITEMS[0]))
        assert (added["added"], added["unknown_items"]) == (2, 1)
        assert len(client.get("/users/new/history").json()) == 1
        log, _ = read_store(url)
        assert set(log.items.ids) == {"never seen", ITEMS[0]}

    @pytest.mark.parametrize(
        ("body", "status", "message"),
        [
            ({}, 422, "events: Field required"),
            ({"events": []}, 422, "at least 1 item"),
            ({"events": [{"user": "u", "item": "i"}]}, 422, "give either feedback or behaviour"),
            ({"events": [event("i", "loved")]}, 422, "events.0.feedback"),
            ({"events": [event("")]}, 422, "events.0.item"),
            ({"events": [event("i", time="yesterday")]}, 422, "events.0.time"),
            ({"events": [event("i", time=time.time() + 9_999)]}, 422, "is in the future"),
            ({"events": [event("i", time=1e300)]}, 422, "is not a number of seconds"),
            ({"events": [event("i", extra=1)]}, 422, "events.0.extra"),
            ({"events": [{"user": "u", "item": "i", "behaviour": {"x": 1}}]}, 422, "rating"),
            ({"events": [{"user": "u", "item": "i", "behaviour": {"rating": "?"}}]}, 422, "'?'"),
        ],
    )
    def test_wrong_events_are_refused(self, client, body, status, message):
        problem(client.post("/events", json=body), status, message)
        assert client.get("/users/u/history").json() == []

    def test_ids_may_hold_anything(self, client):
        user, item = "'; drop table emorec_events; --", "<script>alert(1)</script>/é\n☃"
        post(client, event(item, user=user), event(ITEMS[0], user=user))
        from urllib.parse import quote

        found = client.get(f"/users/{quote(user, safe='')}/history").json()
        assert [row["item"] for row in found] == [ITEMS[0]]


class TestForget:
    def test_events_of_store_and_log_are_gone(self, client, url):
        post(client, event(ITEMS[0], user=USER))
        assert len(client.get(f"/users/{USER}/history").json()) > 1
        assert client.delete(f"/users/{USER}").json() == {"deleted": 1}
        assert client.get(f"/users/{USER}/history").json() == []
        assert client.get(f"/users/{USER}/recommendations").json()["source"] == "popular"
        post(client, event(ITEMS[1], user=USER))  # who comes back begins anew
        assert len(client.get(f"/users/{USER}/history").json()) == 1


class TestItemsAndReasons:
    def test_similar(self, client, runs):
        recommender = EmoRec.load(runs / "one", backend="torch")
        for by in ("audience", "taste"):
            found = client.get(f"/items/{ITEMS[0]}/similar", params={"k": 4, "by": by}).json()
            expected = recommender.similar_items([ITEMS[0]], k=4, by=by)
            assert [row["item"] for row in found] == expected["similar"].tolist()
        problem(client.get("/items/nothing/similar"), 404, "'nothing' is not in the catalogue")

    def test_reasons(self, client, runs):
        recommender = EmoRec.load(runs / "one", backend="torch")
        item = items(client.get(f"/users/{USER}/recommendations"))[0]
        found = client.get(f"/users/{USER}/explanations/{item}").json()
        (expected,) = recommender.explain(USER, [item])
        assert found["score"] == pytest.approx(expected.score, abs=1e-3)
        assert sum(found["terms"].values()) == pytest.approx(found["score"], abs=1e-4)
        assert found["events"][0]["item"] == expected.events["item"].iloc[0]
        nobody = client.get(f"/users/nobody/explanations/{item}")
        problem(nobody, 404, "has no events to explain by")


class TestModel:
    def test_switch_and_rollback(self, client):
        before = items(client.get(f"/users/{USER}/recommendations"))
        assert client.get("/model").json()["name"] == "one"
        assert client.post("/model", json={"name": "two"}).json()["previous"] == "one"
        other = client.get(f"/users/{USER}/recommendations")
        assert other.json()["model"] == "two" and items(other) != before
        assert client.post("/model/rollback").json()["name"] == "one"
        assert items(client.get(f"/users/{USER}/recommendations")) == before

    def test_all_workers_serve_what_one_was_told_to(self, runs, url, tmp_path):
        settings = Settings(runs / "one", url, shared=tmp_path)

        def wait_for(client, name):
            until = time.monotonic() + 30
            while client.get("/model").json()["name"] != name:
                assert time.monotonic() < until
                time.sleep(0.05)

        with TestClient(create_app(settings)) as one, TestClient(create_app(settings)) as two:
            assert one.post("/model", json={"name": "two"}).json()["name"] == "two"
            wait_for(two, "two")
            with TestClient(create_app(settings)) as late:  # such as one that was started again
                assert late.get("/model").json()["name"] == "two"
            assert two.post("/model/rollback").json()["name"] == "one"
            wait_for(one, "one")
            assert one.get("/model").json()["previous"] == "two"
            # A run that one worker could load, and another one cannot.
            gone = shutil.copytree(runs / "two", runs / "gone")
            one.app.state.serving._choice.choose("gone")
            shutil.rmtree(gone)
            until = time.monotonic() + 30
            while two.get("/readyz").status_code == 200:
                assert time.monotonic() < until
                time.sleep(0.05)
            problem(two.get("/readyz"), 503, "one serves, but should not")
            assert two.post("/model", json={"name": "two"}).json()["name"] == "two"
            assert two.get("/readyz").status_code == 200

    def test_a_model_that_is_gone_cannot_be_gone_back_to(self, client, runs):
        shutil.copytree(runs / "two", runs / "three")
        assert client.post("/model", json={"name": "three"}).json()["previous"] == "one"
        assert client.post("/model", json={"name": "one"}).json()["previous"] == "three"
        shutil.rmtree(runs / "three")
        problem(client.post("/model/rollback"), 409, "three: no such run folder; one still serves")

    def test_what_another_request_caught_up_with_is_not_loaded_again(self, client):
        serving = client.app.state.serving
        before = serving.served
        client.portal.call(serving._catch_up)
        assert serving.served is before and serving.behind == ""

    def test_a_damaged_run_does_not_serve(self, client, runs):
        broken = shutil.copytree(runs / "two", runs / "broken", dirs_exist_ok=True)
        (broken / "model.safetensors").write_bytes(b"not a model")
        problem(client.post("/model", json={"name": "broken"}), 409, "one still serves")
        problem(client.post("/model", json={"name": "nothing"}), 409, "no such run folder")
        for name in ("../one", "..", "a/b"):
            problem(client.post("/model", json={"name": name}), 422, "not the name of a folder")
        problem(client.post("/model/rollback"), 409, "no earlier model")
        assert client.get("/model").json()["name"] == "one"

    def test_models_that_depend_on_other_users_cannot_be_served(self, tmp_path, url):
        config = small_config("training.epochs=1", preset="base-gat")
        EmoRec(config=config).fit(LOG, progress=False).save(tmp_path / "run")
        with pytest.raises(ValueError, match="'base-gat' cannot be served"):
            create_app(Settings(tmp_path / "run", url))


class TestOperation:
    def test_health_and_figures(self, client):
        assert client.get("/healthz").json() == client.get("/readyz").json() == {"status": "ok"}
        shown = items(client.get(f"/users/{USER}/recommendations"))
        post(client, event(shown[0], "explicit_negative", user=USER))
        text = client.get("/metrics").text
        assert 'emorec_events_total{kind="explicit_negative"} 1.0' in text
        assert 'emorec_shown_judged_total{kind="explicit_negative"} 1.0' in text
        assert 'route="/users/{user}/recommendations"' in text
        assert client.get("/openapi.json").json()["info"]["title"] == "EmoRec"

    def test_keys(self, runs, url):
        with TestClient(create_app(Settings(runs / "one", url, api_keys=("a", "b")))) as client:
            problem(client.get("/model"), 401, "an API key is needed")
            problem(client.get("/model", headers={"authorization": "Bearer c"}), 401, "API key")
            for key in "ab":
                headers = {"authorization": f"Bearer {key}"}
                assert client.get("/model", headers=headers).status_code == 200
            assert client.get("/healthz").status_code == 200

    def test_rates(self, runs, url):
        settings = Settings(runs / "one", url, api_keys=("a", "b"), rate="5/minute")
        with TestClient(create_app(settings)) as client:
            for _ in range(5):
                assert client.get("/model", headers={"authorization": "Bearer a"}).is_success
            refused = client.get("/model", headers={"authorization": "Bearer a"})
            problem(refused, 429, "more than 5 per 1 minute requests; wait")
            assert 1 <= int(refused.headers["retry-after"]) <= 120
            assert client.get("/model", headers={"authorization": "Bearer b"}).is_success
            for _ in range(9):  # who has no key learns nothing of the others' rates
                assert client.get("/model").status_code == 401
                assert client.get("/healthz").is_success
        with pytest.raises(ValueError, match="the rate 'often' is not understood"):
            create_app(Settings(runs / "one", url, rate="often"))

    def test_drift_of_kinds(self, client):
        def drift():
            (line,) = [
                line
                for line in client.get("/metrics").text.splitlines()
                if line.startswith("emorec_kind_drift")
            ]
            return float(line.split()[1])

        assert drift() == 0
        for number in range(3):
            post(client, *(event(ITEMS[0], "explicit_negative") for _ in range(1000)))
            share = LOG.feedback_counts()[Feedback.EXPLICIT_NEGATIVE] / len(LOG)
            assert drift() == pytest.approx((1 - share) * (1 - 0.999 ** (1000 * (number + 1))))
        client.post("/model", json={"name": "two"})
        assert drift() == 0

    def test_pages_of_given_origins_may_ask(self, runs, url):
        with TestClient(create_app(Settings(runs / "one", url, origins=("http://a",)))) as client:
            for origin, allowed in (("http://a", "http://a"), ("http://b", None)):
                answer = client.get("/healthz", headers={"origin": origin})
                assert answer.headers.get("access-control-allow-origin") == allowed

    def test_the_description_is_made_once(self, client):
        first, second = (client.get("/openapi.json").json() for _ in range(2))
        assert first == second and first["paths"]["/events"]["post"]["responses"]["4XX"]

    def test_a_store_that_fails_is_a_problem(self, client, monkeypatch):
        def fails(*_):
            raise StoreError("the store cannot be used")

        monkeypatch.setattr(client.app.state.serving.store, "forget", fails)
        answer = client.delete(f"/users/{USER}")
        problem(answer, 503, "the store cannot be used")
        assert answer.headers["retry-after"] == "1"

    def test_few_users_are_kept_in_memory(self, runs, url):
        with TestClient(create_app(Settings(runs / "one", url, most_users=2))) as client:
            first, *_ = lists = [items(client.get(f"/users/{u}/recommendations")) for u in "abc"]
            for user in LOG.users.ids[:5]:
                lists.append(items(client.get(f"/users/{user}/recommendations")))
            served = client.app.state.serving.served
            assert len(served.lists) == len(served.histories._kept) == 2
            assert items(client.get("/users/a/recommendations")) == first

    def test_no_list_is_computed_in_advance_where_the_store_fails(self, runs, url, monkeypatch):
        serving, asked = Serving(Settings(runs / "one", url)), []

        def fails(some):
            asked.append(len(some))
            raise StoreError("the store cannot be used")

        monkeypatch.setattr(serving, "_rank", fails)
        asyncio.run(serving._prepare(serving.served))
        serving.close()
        assert asked == [8]  # of thirty users

    def test_lists_are_computed_in_advance(self, client):
        lists = client.app.state.serving.served.lists
        until = time.monotonic() + 30
        while len(lists) < LOG.num_users:
            assert time.monotonic() < until
            time.sleep(0.02)
        known = dict(lists)
        client.get(f"/users/{USER}/recommendations")
        assert dict(lists) == known
        post(client, event(ITEMS[0], user=USER))
        client.get(f"/users/{USER}/recommendations")
        assert len(lists) == LOG.num_users + 1

    def test_bodies_that_do_not_come_are_given_up(self, runs, url, monkeypatch):
        monkeypatch.setattr("emorec.service.guard._SECONDS_FOR_BODY", 0.2)

        async def ask(app):
            sent = []

            async def receive():
                if not sent_part:
                    sent_part.append(True)
                    return {"type": "http.request", "body": b'{"events"', "more_body": True}
                await asyncio.sleep(60)

            async def send(message):
                sent.append(message)

            sent_part = []
            scope = {
                "type": "http", "method": "POST", "path": "/events", "query_string": b"",
                "headers": [(b"content-length", b"99")], "client": ("1.2.3.4", 5),
            }  # fmt: skip
            await app(scope, receive, send)
            return sent

        with TestClient(create_app(Settings(runs / "one", url))) as client:
            start, body = asyncio.run(ask(client.app))
            assert start["status"] == 408 and b"within 0.2 s" in body["body"]

    def test_large_bodies_are_refused(self, client):
        problem(client.post("/events", content=b"x" * 1_000_001), 413, "at most 1,000,000")
        chunks = (b"x" * 100_000 for _ in range(11))
        problem(client.post("/events", content=chunks), 413, "longer than 1,000,000")
        headers = {"content-type": "application/json"}
        problem(client.post("/events", content=b"{not json", headers=headers), 422, "JSON")
        problem(client.get("/nothing"), 404, "Not Found")

    def test_two_processes_share_the_store(self, runs, url):
        settings = Settings(runs / "one", url)
        with TestClient(create_app(settings)) as one, TestClient(create_app(settings)) as two:
            assert two.get("/users/new/history").json() == []
            post(one, event(ITEMS[0]))
            assert len(two.get("/users/new/history").json()) == 1
            two.delete("/users/new")
            assert one.get("/users/new/history").json() == []

    def test_events_outlive_the_process(self, runs, url):
        with TestClient(create_app(Settings(runs / "one", url))) as client:
            post(client, event(ITEMS[0]), event(ITEMS[1], "explicit_negative"))
        with TestClient(create_app(Settings(runs / "one", url))) as client:
            assert len(client.get("/users/new/history").json()) == 2
        log, report = read_store(url)
        assert len(log) == 2 and log.time_unit == "us"
        assert sorted(log.feedback.tolist()) == [0, 3]
