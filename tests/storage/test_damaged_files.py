"""Files of a model that were cut short or changed: one line that says so, or the same model."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from emorec import EmoRec
from emorec.data.synthetic import generate
from emorec.run_folder import existing_file, load_split
from emorec.storage import files
from emorec.storage.files import FileError
from emorec.storage.tensors import load_tensors
from emorec.training.checkpoint import Progress
from tests.small import small_config

LOG = generate(num_users=20, num_items=45, num_topics=8, events_per_user=10).interactions
CONFIG = small_config(
    "training.epochs=1", "graph.paths=3", "model.embedding_size=4", preset="emorec"
)
NAMES = (
    "config.toml",
    "manifest.json",
    "vocabulary.json",
    "interactions.safetensors",
    "model.safetensors",
)
few = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = EmoRec(config=CONFIG).fit(LOG, progress=False, checkpoint=folder / "checkpoint")
    model.save(folder / "whole")
    return model, folder


@pytest.fixture(scope="module")
def without_digests(fitted):
    """The same model without any digest, as earlier versions saved it."""
    folder = shutil.copytree(fitted[1] / "whole", fitted[1] / "without")
    (folder / "manifest.json").unlink()
    for path in folder.glob("*.safetensors"):
        tensors, about = load_tensors(path)
        save_file(tensors, path, metadata={"about": files.to_json(about)})
    return folder


def load(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EmoRec.load(folder)


def assert_same(one, other):
    ours, theirs = one.model.state_dict(), other.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert one.config.updated({"data": {"rules": ""}}, "") == other.config
    assert np.array_equal(one.split.train.item, other.split.train.item)
    assert one.split.train.users == other.split.train.users


def assert_refused(error):
    assert isinstance(error, ValueError)
    text = str(error)
    assert text and "\n" not in text and len(text) < 2000, text


def damages(path: Path):
    """A whole file cut short, or with a few bytes changed."""
    whole = path.read_bytes()
    place = st.integers(0, len(whole) - 1) | st.integers(0, min(len(whole), 300) - 1)

    def changed(changes):
        content = bytearray(whole)
        for at, bits in changes:
            content[at] ^= bits
        return bytes(content)

    cut = place.map(lambda length: whole[:length])
    flips = st.lists(st.tuples(place, st.integers(1, 255)), min_size=1, max_size=3).map(changed)
    return cut | flips


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_refused(fitted, name):
    model, folder = fitted
    path = folder / "whole" / name
    whole = path.read_bytes()

    @few
    @given(damages(path))
    def check(content):
        path.write_bytes(content)
        try:
            assert_same(load(folder / "whole"), model)
        except ValueError as error:
            assert_refused(error)

    try:
        check()
    finally:
        path.write_bytes(whole)
    assert_same(load(folder / "whole"), model)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "manifest.json"])
def test_without_digests_a_damaged_file_loads_or_is_refused(without_digests, name):
    path = without_digests / name
    whole = path.read_bytes()

    @few
    @given(damages(path))
    def check(content):
        path.write_bytes(content)
        try:
            load(without_digests)
        except ValueError as error:
            assert_refused(error)

    try:
        check()
    finally:
        path.write_bytes(whole)


def test_a_damaged_checkpoint_is_refused(fitted):
    model, folder = fitted
    path = folder / "checkpoint"
    whole = path.read_bytes()

    @few
    @given(damages(path))
    def check(content):
        path.write_bytes(content)
        network = torch.nn.Linear(1, 1)
        optimizer = torch.optim.AdamW(network.parameters())
        with pytest.raises(ValueError) as caught:  # if it is whole, it is of another model
            Progress.load(path, network, "another", optimizer, None)
        assert_refused(caught.value)

    try:
        check()
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("metadata", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "[1]", "7"])
def test_a_description_that_is_nested_too_deep_or_no_object(tmp_path, metadata):
    path = tmp_path / "deep.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"about": metadata})
    with pytest.raises(ValueError, match="deep.safetensors: is damaged or was not written") as e:
        load_tensors(path)
    assert_refused(e.value)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null", "/"])
def test_links_to_what_is_no_file(fitted, tmp_path, target):
    for name in NAMES:
        folder = shutil.copytree(fitted[1] / "whole", tmp_path / name)
        (folder / name).unlink()
        (folder / name).symlink_to(target)
        with pytest.raises(
            ValueError, match="a device, a pipe or a socket|it is a folder"
        ) as caught:
            load(folder)
        assert_refused(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_links_to_nothing(fitted, tmp_path, name):
    folder = shutil.copytree(fitted[1] / "whole", tmp_path / "run")
    (folder / name).unlink()
    (folder / name).symlink_to("nothing")
    with pytest.raises(FileError, match=name) as caught:
        load(folder)
    assert_refused(caught.value)


@pytest.mark.parametrize(
    "vocabulary",
    ["[" * 100_000, '{"users": {"0": 1}, "items": "ab"}', '{"users": [[1]], "items": [1]}',
     '{"users": [1.5], "items": [1]}', '{"users": [NaN], "items": [1]}', "1" * 10_000],
)  # fmt: skip
def test_a_vocabulary_of_something_else(without_digests, tmp_path, vocabulary):
    folder = shutil.copytree(without_digests, tmp_path / "run")
    (folder / "vocabulary.json").write_text(vocabulary)
    with pytest.raises(ValueError, match="vocabulary.json .*is damaged") as caught:
        load_split(folder)
    assert_refused(caught.value)


def test_many_files_are_not_all_listed(tmp_path):
    for number in range(1000):
        (tmp_path / f"{number:04}").touch()
    with pytest.raises(ValueError, match=r"holds 0000, .*, 0019, \.\.\.\)"):
        existing_file(tmp_path, "config.toml")
