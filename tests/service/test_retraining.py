"""From a service's store to a new model that it serves."""

from __future__ import annotations

import io
from email.message import Message
from urllib.error import HTTPError, URLError

import click
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
pytest.importorskip("uvicorn", reason="needs uvicorn, the extra serve")
from emorec import EmoRec, cli  # noqa: E402
from emorec.cli import retraining  # noqa: E402
from emorec.comparison import Comparison  # noqa: E402
from emorec.data.synthetic import generate  # noqa: E402
from emorec.evaluation.top_k import Evaluation  # noqa: E402
from emorec.service.app import Settings, create_app  # noqa: E402
from emorec.service.store import Event, Store  # noqa: E402
from emorec.updating import BEFORE, Verdict, verdict_of  # noqa: E402
from tests.cli.commands import assert_fails, call  # noqa: E402
from tests.service.test_page import served  # noqa: E402
from tests.small import small_config  # noqa: E402

LOG = generate(num_users=30, num_items=60, num_topics=8, events_per_user=12).interactions


@pytest.fixture
def run(tmp_path):
    """A run whose service has stored ten events of each user since."""
    config = small_config("training.epochs=1", preset="emorec")
    EmoRec(config=config).fit(LOG, progress=False).save(tmp_path / "run")
    store, rng = Store(f"sqlite:///{tmp_path / 'events.db'}"), np.random.default_rng(0)
    rows = [
        Event(user, LOG.items.ids[rng.integers(40)], int(rng.integers(4)), 2 * 10**15 + number)
        for number in range(10)
        for user in LOG.users.ids
    ]
    store.add([rows])
    store.close()
    return tmp_path / "run"


def compared(new, old):
    """A comparison of models by NDCG of likes and recall of dislikes, by user."""
    frames = {
        name: pd.DataFrame(values, columns=["ndcg_likes", "recall_dislikes"])
        for name, values in (("emorec", new), (BEFORE, old))
    }
    results = {name: Evaluation(10, frame) for name, frame in frames.items()}
    return Comparison(results, {}, {}, [], [], {}, {}, {})


RNG = np.random.default_rng(0)
BASE = RNG.random((200, 2))


@pytest.mark.parametrize(
    ("change", "is_offered"),
    [
        ((0.0, 0.0), True),
        ((0.1, 0.0), True),
        ((0.0, -0.1), True),
        ((-0.1, 0.0), False),  # fewer likes
        ((0.0, 0.1), False),  # more dislikes
        ((0.5, 0.1), False),
    ],
)
def test_worse_is_what_is_beyond_noise(change, is_offered):
    noise = RNG.normal(0, 0.01, BASE.shape)
    verdict = verdict_of(compared(BASE + change + noise, BASE))
    assert verdict.is_offered == is_offered
    assert len(verdict.reasons) == 2 and "over 200 users" in verdict.reasons[0]
    assert ("not offered" in str(verdict)) == (not is_offered)


def test_noise_does_not_decide():
    worse = BASE - RNG.normal(0.01, 1.0, BASE.shape)
    assert verdict_of(compared(worse, BASE)).is_offered
    few = np.full((3, 2), np.nan)
    assert verdict_of(compared(few, few)).is_offered


def test_the_service_switches_to_what_is_not_worse(run, tmp_path):
    app = create_app(Settings(run, f"sqlite:///{tmp_path / 'events.db'}", api_keys=("key",)))
    with served(app) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr("emorec.updating.verdict_of", lambda _: Verdict(True, ("because",)))
        options = (run, "--service", url, "--run-dir", tmp_path / "next")
        assert_fails(cli.main, "retrain", *options, message="refuses next: an API key is needed")
        patch.setenv("EMOREC_API_KEY", "key")
        options = (run, "--service", url, "--run-dir", tmp_path / "again")
        result = call(cli.main, "retrain", *options)
        assert result.exit_code == 0, result.output
        assert "not worse, and offered" in result.stdout and "serves again" in result.stdout
        assert app.state.serving.served.name == "again"
        assert app.state.serving.chosen.previous == "run"


def test_what_is_worse_is_not_served(run, tmp_path, monkeypatch):
    monkeypatch.setattr("emorec.updating.verdict_of", lambda _: Verdict(False, ("because",)))
    message = "is worse than .*run, which should serve on"
    assert_fails(cli.main, "retrain", run, message=message)
    (new,) = tmp_path.glob("run-2*")  # beside the run, where a service would find it
    assert EmoRec.load(new).config.preset == "emorec"


def test_wrong_options(run, tmp_path):
    assert_fails(cli.main, "retrain", run, "--service", "host", message="such as http://host:8000")
    elsewhere = ("--service", "http://127.0.0.1:1", "--run-dir", tmp_path / "a" / "b")
    assert_fails(cli.main, "retrain", run, *elsewhere, message="beside .* only")
    nowhere = ("--store", f"sqlite:///{tmp_path / 'no.db'}")
    assert_fails(cli.main, "retrain", run, *nowhere, message="there is no such database")


def test_who_asked_to_be_forgotten_is_not_in_the_new_run(run, tmp_path):
    url = f"sqlite:///{tmp_path / 'events.db'}"
    gone, back = LOG.users.ids[3], LOG.users.ids[4]
    store = Store(url)
    for user in (gone, back, "who was never there"):
        store.forget(user)
    store.add([[Event(back, item, 0, 3 * 10**15) for item in LOG.items.ids[:5]]])
    store.close()
    result = call(cli.main, "retrain", run, "--run-dir", tmp_path / "next")
    assert "2 users asked to be forgotten, and will not be in the new run." in result.stdout
    for folder in (tmp_path / "next", tmp_path / "next" / "start"):
        assert gone not in EmoRec.load(folder).split.log.users
    text = b"".join(path.read_bytes() for path in (tmp_path / "next").rglob("*.*"))
    assert gone.encode() not in text and LOG.users.ids[5].encode() in text
    log = EmoRec.load(tmp_path / "next").split.log
    rows = log.user == log.users.indices([back])[0]
    assert sorted(log.items.lookup(log.item[rows])) == sorted(LOG.items.ids[:5])


@pytest.mark.parametrize("preset", ["emorec", "diff-gat"])
def test_a_copy_without_some_users_ranks_as_before_for_all_others(preset):
    log = generate(num_users=12, num_items=60, num_topics=8, events_per_user=12).interactions
    config = small_config("training.epochs=1", preset=preset)
    recommender = EmoRec(config=config).fit(log, progress=False)
    copy = recommender.without_users(log.users.ids[2:4])
    assert copy.split.log.num_users == 10 and recommender.split.log.num_users == 12
    others = [*log.users.ids[:2], *log.users.ids[4:]]
    if preset == "emorec":  # of its user's events alone
        pd.testing.assert_frame_equal(
            copy.recommend(others, k=5), recommender.recommend(others, k=5), rtol=1e-4, atol=1e-4
        )
    else:
        assert len(copy.recommend(others, k=5)) == 50


class TestService:
    """What `emorec retrain --service` says of an address that answers otherwise than a service."""

    def test_that_cannot_be_reached(self, monkeypatch):
        monkeypatch.setattr(retraining, "urlopen", raises(URLError("refused")))
        with pytest.raises(click.ClickException, match="http://a cannot be reached: .*refused"):
            retraining._switch("http://a", "new")

    @pytest.mark.parametrize("body", [b"<html>", b"{}"])
    def test_that_refuses_in_words_of_its_own(self, monkeypatch, body):
        error = HTTPError("http://a/model", 502, "Bad Gateway", Message(), io.BytesIO(body))
        monkeypatch.setattr(retraining, "urlopen", raises(error))
        message = "^http://a refuses new: HTTP Error 502: Bad Gateway$"
        with pytest.raises(click.ClickException, match=message):
            retraining._switch("http://a", "new")


def raises(error):
    def fails(*_, **__):
        raise error

    return fails
