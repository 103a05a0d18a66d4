"""Configurations of any text: a configuration that can be written and read again, or its error."""

from __future__ import annotations

import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from emorec.config import Config, ConfigError, load_config, preset_names
from tests.fuzz.amount import amount

SECTIONS = {
    name: list(type(section).model_fields)
    for name, section in Config()
    if isinstance(section, BaseModel)
}
PATHS = [f"{section}.{key}" for section, keys in SECTIONS.items() for key in keys]
DEFAULTS = [value for _, section in Config() if isinstance(section, BaseModel)
            for _, value in section]  # fmt: skip
WORDS = (
    "", "0", "1", "2", "-1", "0.5", "1e400", "nan", "inf", "-inf", "1e-320", "9" * 30, "9" * 5000,
    "true", "false", "auto", "none", "torch", "dgl", "time", "random", "softmax", "gat", "sage",
    "[]", "[1, 2]", '["a"]', "{}", "{a = 1}", '"', "'x'", '"""', "2020-01-01", "07:32:00", "#",
    "\0", "\ud7ff", "é", " ", "=", "a=b", "../x", "/", "\n", "x" * 1000, "0x10", "1_0", "[" * 2000,
)  # fmt: skip

texts = st.sampled_from(WORDS) | st.sampled_from(DEFAULTS).map(str) | st.text(max_size=8)
paths = st.sampled_from(PATHS) | st.sampled_from(
    ["", ".", "a", "a.b", "data", "data.", ".rules", "data.rules.x", "preset", "training.epoch"]
)
values = st.recursive(
    st.sampled_from(DEFAULTS) | st.integers() | st.floats() | st.booleans() | st.text(max_size=5)
    | st.dates() | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)  # fmt: skip


def sections(values):
    return st.fixed_dictionaries(
        {},
        optional={
            name: st.dictionaries(st.sampled_from(keys) | st.text(max_size=4), values, max_size=3)
            | values
            for name, keys in [*SECTIONS.items(), ("preset", ["x"]), ("else", ["x"])]
        },
    )


def assert_refused(error, most=4000):
    text = str(error)
    assert text and len(text) < most, text


@amount(150)
@given(st.lists(st.tuples(paths, st.sampled_from(["=", " = ", "", "=="]), texts), max_size=3),
       st.sampled_from(preset_names()))  # fmt: skip
def test_settings(tmp_path, parts, preset):
    try:
        config = load_config(preset, settings=tuple(map("".join, parts)))
    except ConfigError as error:
        assert_refused(error, 20_000)  # it repeats what was written
        return
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    assert load_config(file=tmp_path / "config.toml") == config


@amount(150)
@given(sections(values))
def test_files(tmp_path, content):
    path = tmp_path / "config.toml"
    try:
        path.write_text(tomli_w.dumps(content), encoding="utf-8")
    except (ValueError, OverflowError):  # of thousands of digits, for instance
        return
    try:
        config = load_config(file=path)
    except ConfigError as error:
        assert_refused(error)
        return
    path.write_text(config.to_toml(), encoding="utf-8")
    assert load_config(file=path) == config


@amount(60)
@given(st.binary(max_size=50) | st.lists(texts | paths, max_size=8).map(
    lambda parts: " ".join(parts).encode()))  # fmt: skip
def test_bytes(tmp_path, content):
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    try:
        load_config(file=path)
    except ConfigError as error:
        assert "config.toml" in str(error)
        assert_refused(error)


@amount(60)
@given(st.data())
def test_a_written_configuration_with_changed_bytes(tmp_path, data):
    path = tmp_path / "config.toml"
    content = bytearray(Config().to_toml().encode())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        load_config(file=path)
    except ConfigError as error:
        assert "config.toml" in str(error)
        assert_refused(error)
