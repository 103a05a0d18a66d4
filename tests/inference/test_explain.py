from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from emorec import EmoRec
from emorec.cli import main
from emorec.data.items import Items
from emorec.data.synthetic import generate
from emorec.data.titles import Titles
from emorec.inference import explain as explaining
from emorec.inference.ranking import ModelScorer
from tests.small import small_config

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
USER = LOG.users.ids[3]
TERMS = ["next_item", "graph", "paths", "liked", "dislikes"]


@pytest.fixture(scope="module")
def fitted():
    config = small_config("training.epochs=2", "graph.paths=9", preset="emorec")
    return EmoRec(config=config).fit(LOG, progress=False)


def score(fitted, log, item):
    request = np.full(log.num_users, LOG.time.max())
    return ModelScorer(fitted.model, log, requests=request)(torch.tensor([3]))[0, item].item()


def test_effects_are_what_the_score_falls_by_without_the_event(fitted):
    item = fitted.recommend([USER], k=1)["item"].iloc[0]
    (found,) = fitted.explain(USER)
    assert (found.user, found.item) == (USER, item)
    index = int(LOG.items.indices([item])[0])
    whole = score(fitted, LOG, index)
    assert found.score == pytest.approx(whole, abs=1e-4)
    assert found.score == pytest.approx(sum(found.terms.values()))
    rows = np.flatnonzero(LOG.user == 3)
    rows = rows[np.argsort(LOG.time[rows], kind="stable")]
    assert len(found.events) == len(rows)
    for event in found.events.to_dict("records"):
        row = rows[len(rows) - 1 - event["newer"]]
        assert event["item"] == LOG.items.ids[LOG.item[row]]
        without = score(fitted, LOG.select(np.arange(len(LOG)) != row), index)
        assert event["effect"] == pytest.approx(whole - without, abs=1e-4)
        assert event["effect"] == pytest.approx(sum(event[name] for name in TERMS), abs=1e-6)
    sizes = found.events["effect"].abs()
    assert sizes.is_monotonic_decreasing and sizes.iloc[0] > 0


def test_other_users_and_the_number_of_users_do_not_matter(fitted, monkeypatch):
    (found,) = fitted.explain(USER)
    monkeypatch.setattr(explaining, "users_at_a_time", lambda _: 3)
    (again,) = fitted.explain(USER)
    pd.testing.assert_frame_equal(found.events, again.events, atol=1e-5)


def test_the_newest_events_alone_where_there_are_many(fitted, monkeypatch):
    (whole,) = fitted.explain(USER)
    monkeypatch.setattr(explaining, "MOST_EVENTS", 4)
    (found,) = fitted.explain(USER)
    assert sorted(found.events["newer"]) == [0, 1, 2, 3]
    both = found.events.merge(whole.events, on="newer")
    np.testing.assert_allclose(both["effect_x"], both["effect_y"], atol=1e-5)


def test_new_events_are_explained_too(fitted):
    disliked = fitted.recommend([USER], k=1)["item"].iloc[0]
    row = {"user_id": USER, "item_id": disliked, "rating": 1, "timestamp": int(LOG.time.max()) + 9}
    index = torch.from_numpy(LOG.items.indices([disliked]))
    near = fitted.model.feedback_paths.nearest(index)[0]
    near = [LOG.items.ids[index] for index in near.tolist() if LOG.items.ids[index] != disliked]
    (found,) = fitted.explain(USER, near[:1], events=pd.DataFrame([row]))
    newest = found.events[found.events["newer"] == 0].iloc[0]
    assert (newest["item"], newest["feedback"]) == (disliked, "explicit_negative")
    assert newest["dislikes"] < -0.3
    assert found.terms["dislikes"] == pytest.approx(-1.5)


def test_at_an_earlier_time(fitted):
    rows = np.flatnonzero(LOG.user == 3)
    times = np.sort(LOG.time[rows])
    (found,) = fitted.explain(USER, at=int(times[4]))
    assert len(found.events) == (times <= times[4]).sum()
    with pytest.raises(ValueError, match="no events of user .* up to the time of the request"):
        fitted.explain(USER, at=int(times[0]) - 1)


def test_in_words(fitted):
    first, _ = fitted.explain(USER, k=2)
    text = str(first)
    assert text.startswith(f"Item {first.item} for user {USER}: {first.score:.2f} = ")
    assert "next item" in text and "predicted to be liked with probability 0." in text
    assert "  raised by " in text and "most of it from " in text


def test_titles(fitted, tmp_path):
    item, other = LOG.items.ids[:2]
    fitted.save(tmp_path)
    titled = EmoRec.load(tmp_path)
    texts = np.array(["A\x1b title", *[None] * 49], dtype=object)
    titled._items = Items(Titles(texts, LOG.items))
    first, second = titled.explain(USER, [item, other])
    assert (first.title, second.title) == ("A\x1b title", None)
    assert str(first).startswith(f"Item A\\u001b title ({item}) for user {USER}: ")
    assert str(second).startswith(f"Item {other} for user {USER}: ")
    plain = fitted.explain(USER, [item])[0].events
    assert first.events.columns.tolist() == ["item", "title", *plain.columns[1:]]
    pd.testing.assert_frame_equal(first.events.drop(columns="title"), plain)
    seen = second.events["item"].iloc[0]
    texts[LOG.items.indices([seen])] = "Seen"
    (found,) = titled.explain(USER, [other])
    assert found.events.set_index("item")["title"][seen] == "Seen"
    assert f" Seen ({seen}) (" in str(found)

    titled.save(tmp_path)
    arguments = ["explain", str(tmp_path), "--user", USER, "--item", item, "--format"]
    (row,) = json.loads(CliRunner().invoke(main, [*arguments, "json"]).stdout)
    assert list(row)[:4] == ["user", "item", "title", "score"]
    assert row["title"] == "A\x1b title"
    assert {each["title"] for each in row["events"] if each["item"] == seen} == {"Seen"}
    lines = CliRunner().invoke(main, [*arguments, "csv"]).stdout.splitlines()
    assert lines[0].startswith("item,title,event_item,event_title,feedback,newer")
    assert f"{item},A\x1b title,{seen},Seen," in "\n".join(lines)


class TestErrors:
    def test_an_unknown_user(self, fitted):
        with pytest.raises(ValueError, match="no events of user 'nobody' to explain by"):
            fitted.explain("nobody")

    def test_a_user_without_events(self, fitted):
        others = LOG.select(LOG.user != 3)
        with pytest.raises(ValueError, match=f"user '{USER}' has no event to explain by"):
            explaining.explain(fitted.model, others, 3, np.array([0]), int(LOG.time.max()))

    def test_an_unknown_item(self, fitted):
        with pytest.raises(ValueError, match="item 'nothing' is not in the catalogue"):
            fitted.explain(USER, ["nothing"])

    @pytest.mark.parametrize("preset", ["emo-gat", "diff-gat"])
    def test_a_model_that_depends_on_other_users(self, preset):
        config = small_config("training.epochs=1", preset=preset)
        model = EmoRec(config=config).fit(LOG, progress=False)
        with pytest.raises(ValueError, match="depend on more than the user's own events"):
            model.explain(USER)


@pytest.mark.parametrize("settings", [("emorec-graph",), ("emo-sage-thp", "graph.conv=none")])
def test_other_models(settings):
    preset, *rest = settings
    model = EmoRec(config=small_config("training.epochs=1", *rest, preset=preset))
    (found,) = model.fit(LOG, progress=False).explain(USER)
    assert set(found.terms) < set(TERMS)
    assert found.liked is None and "predicted to be liked" not in str(found)


@pytest.fixture(scope="module")
def run(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    fitted.save(folder)
    return str(folder)


class TestCommand:
    def test_text(self, run):
        found = CliRunner().invoke(main, ["explain", run, "--user", USER, "-k", "2"])
        assert found.exit_code == 0, found.output
        assert found.stdout.count(f"for user {USER}: ") == 2

    def test_json_and_csv(self, run, fitted):
        item = LOG.items.ids[0]
        arguments = ["explain", run, "--user", USER, "--item", str(item), "--format"]
        rows = json.loads(CliRunner().invoke(main, [*arguments, "json"]).stdout)
        assert [row["item"] for row in rows] == [item]
        assert rows[0]["score"] == pytest.approx(fitted.explain(USER, [item])[0].score, abs=1e-4)
        lines = CliRunner().invoke(main, [*arguments, "csv"]).stdout.splitlines()
        assert lines[0].startswith("item,event_item,feedback,newer,effect,next_item")
        assert len(lines) == 1 + (LOG.user == 3).sum()

    def test_an_unknown_user(self, run):
        found = CliRunner().invoke(main, ["explain", run, "--user", "nobody"])
        assert found.exit_code == 1
        assert "Error: the model has no events of user 'nobody'" in found.stderr
