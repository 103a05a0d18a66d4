"""Run folders with files that are changed, exchanged or gone: the same recommender, or one line.

Changed bytes of a model's main files are tried in `tests.storage.test_damaged_files`.
"""

from __future__ import annotations

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from emorec import EmoRec
from emorec.data.synthetic import generate
from emorec.storage import files
from emorec.storage.tensors import load_tensors
from tests.fuzz.amount import amount
from tests.fuzz.test_logs import changed
from tests.small import small_config

LOG = generate(num_users=20, num_items=45, num_topics=8, events_per_user=10).interactions
TABLE = pd.DataFrame(
    {
        "item_id": [*LOG.items.ids, "new", "newer"],
        "title": [f"title {n}" for n in range(len(LOG.items) + 2)],
        "kind": [f"kind {n % 3}" for n in range(len(LOG.items) + 2)],
    }
)
NAMES = (
    "manifest.json", "config.toml", "rules.toml", "vocabulary.json", "titles.json",
    "cold_items.json", "features.safetensors", "cold_items.safetensors",
    "interactions.safetensors", "model.safetensors",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with every file there is, another of the same kind, and its lists."""
    folder = tmp_path_factory.mktemp("runs")
    rules = folder / "rules.toml"
    rules.write_text('explicit_positive = "rating > 3"\nexplicit_negative = "rating < 3"\n')
    for name, seed in (("whole", 0), ("other", 1)):
        config = small_config(
            "training.epochs=1", "graph.paths=3", "model.embedding_size=4",
            f"training.seed={seed}", f"data.rules={rules}", preset="emorec",
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = EmoRec(config=config).fit(LOG, items=TABLE, progress=False)
        model.save(folder / name)
    assert {path.name for path in (folder / "whole").iterdir()} - {".lock"} == set(NAMES)
    without = shutil.copytree(folder / "whole", folder / "without")
    (without / "manifest.json").unlink()
    for path in without.glob("*.safetensors"):
        tensors, about = load_tensors(path)
        save_file(tensors, path, metadata={"about": files.to_json(about)})
    return folder, lists(folder / "whole")


def lists(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = EmoRec.load(folder)
        return model.recommend(LOG.users.ids[:3], 5, cold=True, before_test=False)


@st.composite
def changes(draw: st.DrawFn):
    """What happens to one or two files, as functions of their path and another run's folder."""
    return draw(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(
        ["bytes", "bytes", "removed", "empty", "of the other run", "of another file", "a folder",
         "a link to nothing", "JSON"]
    ), st.sampled_from(NAMES)), min_size=1, max_size=2)), draw(st.data())  # fmt: skip


def apply(path, what, other, another, data):
    if path.is_dir() or path.is_symlink() or not path.exists():
        return
    content = path.read_bytes()
    path.unlink()
    if what == "bytes":
        path.write_bytes(data.draw(changed(content)))
    elif what == "empty":
        path.touch()
    elif what == "of the other run":
        shutil.copy(other / path.name, path)
    elif what == "of another file":
        shutil.copy(other / another, path)
    elif what == "a folder":
        path.mkdir()
    elif what == "a link to nothing":
        path.symlink_to(path.parent / "nothing")
    elif what == "JSON":
        path.write_text(
            data.draw(st.sampled_from(["[]", "{}", "null", "1", '["a"]', '{"users": []}']))
        )


def check(runs, tmp_path_factory, name, change):
    folder, expected = runs
    copy = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(folder / name, copy)
    happened, data = change
    for own, what, another in happened:
        apply(copy / own, what, folder / "other", another, data)
    try:
        found = lists(copy)
    except ValueError as error:
        text = str(error)
        assert text and "\n" not in text and len(text) < 2000, text
        found = None
    shutil.rmtree(copy.parent)
    return found, expected


@amount(60)
@given(changes())
def test_with_digests(runs, tmp_path_factory, change):
    without_manifest = any(name == "manifest.json" for name, _, _ in change[0])
    found, expected = check(runs, tmp_path_factory, "whole", change)
    if found is not None and not without_manifest:
        pd.testing.assert_frame_equal(found, expected)


@amount(60)
@given(changes())
def test_without_digests(runs, tmp_path_factory, change):
    found, expected = check(runs, tmp_path_factory, "without", change)
    if found is not None:
        assert list(found.columns) == list(expected.columns) or "title" in expected.columns
        assert np.isin(found["user"], LOG.users.ids).all() or len(change[0])
