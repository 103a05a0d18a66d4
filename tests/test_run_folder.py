from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emorec.config import ConfigError, load_config
from emorec.data.interactions import Interactions
from emorec.data.splits import split_interactions
from emorec.data.titles import Titles
from emorec.run_folder import (
    existing_file,
    load_split,
    load_titles,
    read_config,
    save_config,
    save_split,
    save_titles,
)
from emorec.storage.files import FileError, write_text
from emorec.storage.tensors import load_tensors, save_tensors

USERS = ["Zoë", "bo b", "東京", '"q"', "\\"]
LOG = Interactions.from_columns(
    user=np.repeat(USERS, 5),
    item=np.tile([2**40, 10, 20, 30, 20], 5),
    feedback=np.arange(25) % 4,
    time=1_600_000_000_000 + np.arange(25),
    time_unit="ms",
)
SPLIT = split_interactions(LOG, n=2)


@pytest.fixture
def folder(tmp_path):
    save_split(tmp_path, SPLIT)
    write_text(tmp_path / "config.toml", load_config("diff-gat").to_toml())
    return tmp_path


def test_round_trip(folder):
    found = load_split(folder)
    assert found.dropped == SPLIT.dropped
    for part in ("train", "valid", "test"):
        ours, theirs = getattr(found, part), getattr(SPLIT, part)
        for column in ("user", "item", "feedback", "time"):
            assert np.array_equal(getattr(ours, column), getattr(theirs, column))
            assert getattr(ours, column).dtype == getattr(theirs, column).dtype
        assert ours.users == theirs.users
        assert ours.items == theirs.items
        assert ours.time_unit == "ms"
    assert set(found.train.users.ids) == set(USERS)
    assert 2**40 in found.train.items.ids  # still a number


def test_a_part_that_occurs_twice(tmp_path):
    save_split(tmp_path, replace(SPLIT, valid=SPLIT.test))
    assert np.array_equal(load_split(tmp_path).valid.item, SPLIT.test.item)


def test_config(folder):
    assert read_config(folder) == load_config("diff-gat")


def test_rules_of_the_user_are_kept_as_they_were(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('explicit_positive = "rating > 2"\n')
    config = load_config("diff-gat", settings=(f"data.rules={rules}",))
    run = tmp_path / "run"
    save_config(run, config)
    rules.write_text('explicit_negative = "rating > 2"\n')
    found = read_config(run)
    assert found.updated({"data": {"rules": str(rules)}}, "rules") == config
    assert Path(found.data.rules).read_text() == 'explicit_positive = "rating > 2"\n'
    save_config(run, found)  # as a run does that goes on
    assert Path(read_config(run).data.rules).read_text() == 'explicit_positive = "rating > 2"\n'
    save_config(run, load_config("diff-gat", settings=("data.rules=gone.toml",)))
    assert Path(read_config(run).data.rules).read_text() == 'explicit_positive = "rating > 2"\n'
    save_config(run, load_config("diff-gat", settings=("data.rules=kuairand",)))
    assert read_config(run).data.rules == "kuairand"


class TestTitles:
    titles = Titles(np.array(["Zoë\n\x1b", None, '"'], dtype=object), SPLIT.train.items)

    def test_round_trip(self, folder):
        save_titles(folder, self.titles)
        found = load_titles(folder, SPLIT.train.items)
        assert found.texts.tolist() == self.titles.texts.tolist()
        assert found.items == SPLIT.train.items

    def test_a_run_without_titles_has_no_file(self, folder):
        save_titles(folder, None)
        assert not (folder / "titles.json").exists()
        assert load_titles(folder, SPLIT.train.items) is None

    @pytest.mark.parametrize("content", ["", '["a"', "{}", "[1, 2, 3, 4]"])
    def test_a_damaged_file(self, folder, content):
        write_text(folder / "titles.json", content)
        with pytest.raises(FileError, match="titles.json: is damaged: not"):
            load_titles(folder, SPLIT.train.items)

    def test_of_other_items(self, folder):
        write_text(folder / "titles.json", '["a", null]')
        with pytest.raises(FileError, match="has 2 titles for 3 items; it is of another run"):
            load_titles(folder, SPLIT.train.items)


def test_nothing_needs_pickle(folder):
    for path in folder.iterdir():
        assert path.suffix in {".toml", ".json", ".safetensors"}


class TestErrors:
    def test_no_folder(self, tmp_path):
        for read in (load_split, read_config):
            with pytest.raises(FileError, match="gone: no such run folder"):
                read(tmp_path / "gone")

    @pytest.mark.parametrize("name", ["vocabulary.json", "interactions.safetensors"])
    def test_a_missing_file(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(FileError, match=rf"{name} is missing \(the folder holds .*config.toml"):
            load_split(folder)

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(FileError, match="config.toml is missing .the folder holds nothing"):
            existing_file(tmp_path, "config.toml")

    def test_a_damaged_config(self, folder):
        (folder / "config.toml").write_text("preset = ")
        with pytest.raises(ConfigError, match="config.toml: is not TOML"):
            read_config(folder)

    @pytest.mark.parametrize(
        "content", [b"", b'{"users": ["a"', b'{"users": ["a"]}', b"[1]", b"\xff", b"null"]
    )
    def test_a_damaged_vocabulary(self, folder, content):
        (folder / "vocabulary.json").write_bytes(content)
        with pytest.raises(FileError, match="vocabulary.json or .* is damaged"):
            load_split(folder)

    def test_the_vocabulary_of_another_run(self, folder):
        write_text(folder / "vocabulary.json", '{"users": ["a"], "items": [1, 2, 3, 4]}')
        with pytest.raises(FileError, match="of different runs .*user is 1"):
            load_split(folder)

    def test_a_number_of_dropped_rows_that_is_none(self, folder):
        path = folder / "interactions.safetensors"
        tensors, about = load_tensors(path)
        save_tensors(path, tensors, about | {"dropped": "3"})
        message = "vocabulary.json or .* is damaged.*the number of dropped rows is '3'"
        with pytest.raises(FileError, match=message):
            load_split(folder)

    def test_damaged_interactions(self, folder):
        path = folder / "interactions.safetensors"
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(FileError, match="interactions.safetensors: is damaged"):
            load_split(folder)

    def test_other_tensors(self, folder):
        save_tensors(folder / "interactions.safetensors", {}, {})
        with pytest.raises(FileError, match="interactions.safetensors is damaged"):
            load_split(folder)
