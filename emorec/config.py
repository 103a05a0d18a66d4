"""The configuration of a run: presets, files and single settings, checked together."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import BaseModel, ValidationError, model_validator
from pydantic.fields import FieldInfo

from emorec.settings import (
    DataConfig,
    EvaluationConfig,
    GraphConfig,
    LossConfig,
    ModelConfig,
    Section,
    SequenceConfig,
    SplitConfig,
    TrainingConfig,
)
from emorec.storage.files import FileError, one_line, read_text
from emorec.suggestions import suggestion
from emorec.texts import shortened

__all__ = ["Config", "ConfigError", "load_config", "parse_setting", "preset_names"]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what is allowed."""


class Config(Section):
    """A whole run."""

    preset: str = "emorec"
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    graph: GraphConfig = GraphConfig()
    sequence: SequenceConfig = SequenceConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _check_choices(self) -> Self:
        """Checks the choices that exclude each other."""
        if problem := _contradiction(self):
            raise ValueError(problem)
        return self

    def updated(self, values: dict[str, Any], source: str) -> Config:
        """A copy with nested values replaced, e.g. ``{"training": {"epochs": 3}}``.

        Args:
            values: Sections of keys of values, as TOML gives them.
            source: Where they come from, for the error.

        Raises:
            ConfigError: If a key is unknown (the nearest is named) or a value does not fit.
        """
        merged = self.model_dump()
        for name, value in values.items():
            is_section = isinstance(merged.get(name), dict) and isinstance(value, dict)
            merged[name] = merged[name] | value if is_section else value
        try:
            return Config.model_validate(merged)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_explained(error)}") from error

    def with_settings(self, *settings: str) -> Config:
        """A copy with values replaced, all at once, so that their order does not matter.

        Args:
            settings: ``section.key=value`` texts; of two for the same key the later one wins.

        Raises:
            ConfigError: If a setting cannot be understood, or they do not fit.
        """
        return self.with_options([(f"--set {each}", parse_setting(each)) for each in settings])

    def with_options(self, options: Sequence[tuple[str, dict[str, Any]]]) -> Config:
        """The same for values given in any way, each beside what an error calls it.

        Raises:
            ConfigError: If they do not fit; names the one that is wrong, if one alone is.
        """
        everything = " ".join(name for name, _ in options)
        together: dict[str, dict[str, Any]] = {}
        for _, values in options:
            for section, own in values.items():
                together.setdefault(section, {}).update(own)
        try:
            return self.updated(together, everything)
        except ConfigError as error:
            reason = str(error).removeprefix(everything)
            for name, values in options:
                try:
                    self.updated(values, name)
                except ConfigError as own:
                    if str(own).removeprefix(name) == reason:
                        raise own from None
            raise

    def to_toml(self) -> str:
        """The configuration as TOML, every value written out beside what it means."""
        lines = [tomli_w.dumps({"preset": self.preset}), "\n"]
        for name, section in self:
            if not isinstance(section, BaseModel):
                continue
            lines.append(f"[{name}]  # {type(section).__doc__}\n")
            for key, field in type(section).model_fields.items():
                value = tomli_w.dumps({key: getattr(section, key)}).rstrip("\n")
                about = [" | ".join(_choices(field)), field.description or ""]
                comment = "; ".join(filter(None, about))
                lines.append(f"{value}  # {comment}\n" if comment else f"{value}\n")
            lines.append("\n")
        return "".join(lines)


def parse_setting(setting: str) -> dict[str, dict[str, Any]]:
    """The value of a ``section.key=value`` text, by section and key.

    Raises:
        ConfigError: If it does not look like that.
    """
    if not isinstance(setting, str):
        raise ConfigError(f"a setting is a text such as 'training.epochs=20', got {setting!r}")
    path, equals, text = setting.partition("=")
    section, _, key = path.strip().partition(".")
    if not equals or not key or "." in key:
        raise ConfigError(
            f"--set {setting}: must look like section.key=value, e.g. training.epochs=20"
        )
    return {section: {key: _parse_value(text.strip())}}


def preset_names() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("emorec.presets")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load_config(
    preset: str = "emorec", file: Path | None = None, settings: tuple[str, ...] = ()
) -> Config:
    """Defaults, then a preset, then a file, then single settings: the later one wins.

    Args:
        preset: Name of a shipped preset; a file that names one replaces it.
        file: A TOML file of sections, such as a run's ``config.toml``.
        settings: ``section.key=value`` texts.

    Raises:
        ConfigError: If a name, key or value is wrong.
    """
    values: dict[str, Any] = {}
    source = ""
    if file is not None:
        try:
            text = read_text(file)
        except FileError as error:
            raise ConfigError(str(error)) from error
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also of too long a number
            raise ConfigError(f"{file}: is not TOML: {one_line(error)}") from error
        if "preset" in values:
            preset, source = str(shortened(values.pop("preset"))), f"{file}: "
    if preset not in preset_names():
        raise ConfigError(
            f"{source}preset {preset!r} is unknown; {suggestion(str(preset), preset_names())}"
        )
    text = resources.files("emorec.presets").joinpath(f"{preset}.toml").read_text(encoding="utf-8")
    config = Config(preset=preset).updated(tomllib.loads(text), f"preset {preset}")
    return config.updated(values, str(file)).with_settings(*settings)


def _parse_value(text: str) -> Any:
    """A TOML value, or the text itself where it is not one (``gat`` for ``"gat"``)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # ValueError: also of too long a number
        return text


def _contradiction(config: Config) -> str:
    """Describes two settings that exclude each other, and what to change; empty if none do."""
    data, model, graph, sequence = config.data, config.model, config.graph, config.sequence
    has_graph, has_sequence = graph.conv in ("sage", "gat"), sequence.layers > 0
    has_encoder = has_graph or has_sequence
    for name, heads, are_used in (
        ("graph.heads", graph.heads, graph.conv == "gat"),
        ("sequence.heads", sequence.heads, has_sequence and sequence.projections),
    ):
        if are_used and model.embedding_size % heads:
            return (
                f"{name} is {heads}, which must divide model.embedding_size, {model.embedding_size}"
            )
    if data.order == "none" and data.time_column:
        return (
            "data.order is 'none', which needs data.time_column '' (a log without times), got "
            f"{data.time_column!r}"
        )
    if data.items and data.title_column in ("", data.item_column):
        return (
            f"data.title_column is {data.title_column!r}, which must be a column of data.items "
            f"other than data.item_column, {data.item_column!r}"
        )
    if not has_encoder and graph.conv == "none" and not graph.paths:
        return (
            "graph.conv is 'none', graph.paths is 0 and sequence.layers is 0: a model needs an "
            "encoder, or scores from the graph"
        )
    if graph.paths and has_graph:
        return (
            f"graph.paths is {graph.paths}, which goes with graph.conv 'sum' or 'none', "
            f"got {graph.conv!r}"
        )
    if model.start == "log" and not has_encoder:
        return "model.start is 'log', which needs the item embeddings of an encoder"
    if sequence.request_time and not has_sequence:
        return (
            "sequence.request_time is true, which needs sequence.layers of at least 1, got 0: only "
            "the sequence encoder has times"
        )
    if sequence.request_time and not data.time_column:
        return "sequence.request_time is true, which needs a log with times: set data.time_column"
    if model.polarity == "item" and not has_sequence:
        return (
            "model.polarity is 'item', which is predicted from a user's events and needs "
            "sequence.layers of at least 1, got 0"
        )
    if model.aversion and model.polarity != "item" and not graph.paths:
        return (
            f"model.aversion is {model.aversion}, which needs model.polarity 'item' or "
            f"graph.paths, got {model.polarity!r} and 0"
        )
    informs_polarity = has_graph and graph.informs == "polarity"
    if informs_polarity and (not has_sequence or model.polarity == "none"):
        return (
            "graph.informs is 'polarity', which needs model.polarity 'next' or 'item' and "
            f"sequence.layers of at least 1, got {model.polarity!r} and {sequence.layers}"
        )
    if graph.half_life and graph.conv == "gat":
        return (
            f"graph.half_life is {graph.half_life}, which needs the means of graph.conv 'sage', "
            "got 'gat', whose attention weighs events itself"
        )
    if graph.conv == "sum" and (graph.signed or graph.half_life):
        return (
            "graph.conv is 'sum', which has signs and a decay of its own, learned and chosen on "
            "validation: graph.signed must be false and graph.half_life 0"
        )
    for name, value in (("days", config.split.days), ("gap", config.split.gap)):
        if value and config.split.method != "time":
            return (
                f"split.{name} is {value:g}, which needs split.method 'time', got "
                f"{config.split.method!r}"
            )
    if config.loss.negatives > 0 and config.loss.ranking != "softmax":
        return (
            f"loss.negatives is {config.loss.negatives}, which needs loss.ranking 'softmax', got "
            f"{config.loss.ranking!r}; loss.use_negatives is the share of dislikes that BPR samples"
        )
    if config.training.shard_items and (has_graph or config.loss.ranking != "softmax"):
        return (
            "training.shard_items is true, which needs graph.conv 'sum' or 'none' and loss.ranking "
            f"'softmax', as the presets emorec and emorec-graph have, got {graph.conv!r} and "
            f"{config.loss.ranking!r}"
        )
    if graph.signed and not graph.feedback_nodes:
        return "graph.signed needs graph.feedback_nodes: without them no relation is negative"
    return ""


def _explained(error: ValidationError) -> str:
    """The first problem that pydantic found, as one sentence with the value and what is right."""
    problem = error.errors(include_url=False)[0]
    name, value = ".".join(map(str, problem["loc"])), shortened(problem["input"])
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    section, field = _field_of(problem["loc"])
    if field is None:
        known = section.model_fields
        return f"unknown setting {shortened(name)!r}; {suggestion(str(problem['loc'][-1]), known)}"
    if problem["type"] in ("model_type", "model_attributes_type"):
        return f"{name!r} is a section, write {name}.key"
    if choices := _choices(field):
        return f"{name} is {value!r}; {suggestion(str(value), choices)}"
    if isinstance(problem["input"], str) or problem["type"].endswith(("_type", "_float")):
        kind = _TYPE_NAMES[typing.cast(type, field.annotation)]
        return f"{name} must be {kind}, got {value!r}"
    limit = next(iter(problem.get("ctx", {}).values()), 0.0)  # none of a number that is not finite
    shown = f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
    right = _LIMITS[problem["type"]].format(shown)
    return f"{name} must be {'positive' if right == 'above 0' else right}, got {value}"


def _field_of(location: Sequence[Any]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section that a location leads to, and the field in it; None if there is none."""
    section: type[BaseModel] = Config
    field: FieldInfo | None = None
    for key in location:
        if field is not None:
            section = typing.cast(type[BaseModel], field.annotation)
        field = section.model_fields.get(str(key))
    return section, field


_LIMITS = {
    "greater_than": "above {}",
    "greater_than_equal": "at least {}",
    "less_than": "below {}",
    "less_than_equal": "at most {}",
    "finite_number": "finite",
}
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """The texts that a setting may have; none if it is not a choice."""
    is_choice = typing.get_origin(field.annotation) is Literal
    return typing.get_args(field.annotation) if is_choice else ()
