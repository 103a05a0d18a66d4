"""The page of the service, in a browser."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs uvicorn, the extra serve")
pytest.importorskip("websockets", reason="needs websockets, to drive a browser")
from emorec import EmoRec  # noqa: E402
from emorec.data.synthetic import generate  # noqa: E402
from emorec.service.app import Settings, create_app  # noqa: E402
from tests.service.browser import CHROMIUM, opened  # noqa: E402
from tests.small import small_config  # noqa: E402

LOG = generate(num_users=30, num_items=60, num_topics=8, events_per_user=12).interactions
USER = LOG.users.ids[3]
TITLES = "[...document.querySelectorAll('#list .title')].map(each => each.textContent)"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@contextmanager
def served(app):
    """The address of an application that answers in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "run"
    config = small_config("training.epochs=1", preset="emorec")
    names = [[item, f"<b>{item}</b>"] for item in LOG.items.ids]
    import pandas as pd

    titles = pd.DataFrame(names, columns=["item_id", "title"])
    EmoRec(config=config).fit(LOG, items=titles, progress=False).save(folder)
    return folder


def test_a_dislike_changes_the_list(run, tmp_path):
    app = create_app(Settings(run, f"sqlite:///{tmp_path / 'events.db'}"))
    with served(app) as url, opened(f"{url}/?user={USER}", tmp_path / "browser") as page:
        page.wait_for("document.querySelectorAll('#list li').length === 10")
        before = page.value(TITLES)
        assert before[0].startswith("1. <b>")  # a title is text, whatever it holds
        assert "–" in page.wait_for("document.querySelector('#figures').textContent")
        page.value("document.querySelector('#list button[aria-label^=Dislike]').click()")
        first = before[0].removeprefix("1. ")
        page.wait_for(f"!{TITLES}.some(each => each.endsWith({first!r}))")
        newest = page.value("document.querySelector('#history li').textContent")
        assert newest.startswith(f"disliked {first}")
        assert page.value("document.querySelectorAll('#list .new').length") >= 1
        page.value("document.querySelector('#list button[aria-label^=Why]').click()")
        page.wait_for("document.querySelector('#list li > .soft').textContent.length > 5")
        assert page.value("document.querySelector('#problem').textContent") == ""
        # The slider asks again, with another aversion.
        old = page.value(TITLES)
        page.value("aversion.value = 8; aversion.dispatchEvent(new Event('change'))")
        page.wait_for(f"JSON.stringify({TITLES}) !== JSON.stringify({json.dumps(old)})")


def test_somebody_new_begins_with_what_is_popular(run, tmp_path):
    app = create_app(Settings(run, f"sqlite:///{tmp_path / 'events.db'}"))
    with served(app) as url, opened(url, tmp_path / "browser", width=390) as page:
        page.wait_for("document.querySelector('#model').textContent.includes('30 users')")
        page.value("document.querySelector('#nobody').click()")
        page.wait_for("document.querySelectorAll('#list li').length === 10")
        assert "most popular" in page.value("document.querySelector('#source').textContent")
        page.value("document.querySelector('#list button[aria-label^=Like]').click()")
        page.wait_for("document.querySelector('#source').textContent === 'by what this user did'")
        # Nothing is wider than the screen of a phone.
        assert page.value("document.documentElement.scrollWidth") == 390


def test_a_key_is_asked_for(run, tmp_path):
    app = create_app(Settings(run, f"sqlite:///{tmp_path / 'events.db'}", api_keys=("secret",)))
    with served(app) as url, opened(url, tmp_path / "browser") as page:
        page.wait_for("!document.querySelector('#keybox').hidden")
        assert "API key" in page.value("document.querySelector('#problem').textContent")
        page.value("document.querySelector('#key').value = 'secret'")
        page.value("document.querySelector('#nobody').click()")
        page.wait_for("document.querySelectorAll('#list li').length === 10")
