"""Everything a run can be told, with defaults, files and command-line overrides."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import tomllib
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w

from emorec.storage.files import FileError, one_line, read_text
from emorec.suggestions import suggestion
from emorec.texts import shortened

__all__ = ["Config", "ConfigError", "load_config", "parse_setting", "preset_names"]


class ConfigError(ValueError):
    """A configuration that cannot be used, with what would be right."""


@dataclass(frozen=True)
class DataConfig:
    """What to read."""

    dataset: Annotated[str, "a name of the registry, or a file (csv, tsv, jsonl, parquet)"] = (
        "synthetic"
    )
    user_column: Annotated[str, "of ids; columns are those of files"] = "user_id"
    item_column: Annotated[str, "of ids"] = "item_id"
    time_column: Annotated[str, 'of times; "" for a log without times'] = "timestamp"
    rating_column: Annotated[str, "what rules call rating"] = "rating"
    feedback_column: Annotated[
        str, "holds the kind of feedback itself; rating and rules are not used"
    ] = ""
    rules: Annotated[
        str, 'name or file of feedback rules; "": the data set\'s own, or for stars from 1 to 5'
    ] = ""
    time_unit: Annotated[
        Literal["auto", "s", "ms", "us", "ns"], "of numbers in files; auto: by size"
    ] = "auto"
    time_format: Annotated[str, 'of dates in files, such as "%d/%m/%Y"; empty: ISO 8601'] = ""
    order: Annotated[
        Literal["file", "none"], "of events without times: that of rows, or a random one"
    ] = "file"
    encoding: Annotated[str, "of text files"] = "utf-8"
    names: Annotated[str, 'columns of a csv file without a header, such as "user_id,item_id"'] = ""
    decimal: Annotated[Literal[".", ","], "of numbers in csv files"] = "."
    min_user_events: Annotated[int, "k-core: fewer rows and the user is dropped"] = 1
    min_item_events: Annotated[int, "k-core: fewer rows and the item is dropped"] = 1

    @property
    def reading(self) -> dict[str, Any]:
        """What `emorec.data.readers.read_interactions` takes, but for the rules."""
        return {
            "user": self.user_column,
            "item": self.item_column,
            "time": self.time_column,
            "rating": self.rating_column,
            "feedback": self.feedback_column or None,
            "time_unit": self.time_unit,
            "time_format": self.time_format or None,
            "order": self.order,
            "encoding": self.encoding,
            "names": [name.strip() for name in self.names.split(",")] if self.names else None,
            "decimal": self.decimal,
        }


@dataclass(frozen=True)
class SplitConfig:
    """How to hold events out; validation is carved out of train by the same rule."""

    method: Annotated[
        Literal["leave_last_out", "time"], "each user's newest events, or all after one moment"
    ] = "leave_last_out"
    n: Annotated[int, "leave_last_out: the newest events of each user with more than n"] = 10
    quantile: Annotated[float, "time: share of events before the cut"] = 0.9


@dataclass(frozen=True)
class ModelConfig:
    """What both encoders share."""

    embedding_size: Annotated[int, "width of all vectors"] = 64
    backend: Annotated[
        Literal["auto", "dgl", "torch"], "sums over edges; auto: DGL where it can be imported"
    ] = "auto"
    polarity: Annotated[
        Literal["none", "next", "item"], "predict that of the next event, of items"
    ] = "none"
    aversion: Annotated[
        float, 'weight in the ranking of how likely an item is liked; needs "item"'
    ] = 0.0
    neighbours: Annotated[
        int, "similar items per item, found by counting, that vote in the ranking"
    ] = 0


@dataclass(frozen=True)
class GraphConfig:
    """The graph encoder."""

    conv: Annotated[Literal["none", "sage", "gat"], "none: no graph encoder"] = "sage"
    feedback_nodes: Annotated[bool, "False: items send to users directly"] = True
    user_embeddings: Annotated[bool, "False: users are known by their events alone"] = True
    signed: Annotated[bool, "negative feedback repels the user's vector"] = False
    gated: Annotated[bool, "a learned weight on the user's vector beside the sequence's state"] = (
        False
    )
    informs: Annotated[Literal["everything", "polarity"], "or only what will be liked"] = (
        "everything"
    )
    layers: int = 2
    heads: Annotated[int, "of GAT"] = 1
    half_life: Annotated[float, "days after which an event weighs half in a mean; 0: all alike"] = (
        0.0
    )
    dropout: float = 0.2


@dataclass(frozen=True)
class SequenceConfig:
    """The sequence encoder."""

    layers: Annotated[int, "0: no sequence encoder"] = 1
    heads: int = 4
    max_length: Annotated[int, "tokens: [CLS] and the newest events"] = 100
    window: Annotated[float, "reach of the positional decay, in positions"] = 101.0
    decay: Literal["multiplicative", "additive"] = "multiplicative"
    shortest_half_life: Annotated[float, "days, at the start of training"] = 0.04
    longest_half_life: Annotated[float, "days, at the start of training"] = 365.0
    projections: Annotated[bool, "learned queries, keys and outputs"] = False
    feedback_input: Annotated[bool, "the kind of feedback of each event as input"] = False
    dropout: float = 0.2
    attention: Annotated[
        Literal["auto", "reference", "fused"], "auto: compiled where it can be"
    ] = "auto"


@dataclass(frozen=True)
class LossConfig:
    """What is learned."""

    ranking: Annotated[
        Literal["bpr", "softmax"], "against sampled items, or the whole catalogue"
    ] = "bpr"
    targets: Annotated[Literal["any", "positive", "explicit_positive"], "events to rank high"] = (
        "positive"
    )
    horizon: Annotated[int, "events to come that each state predicts"] = 1
    samples: Annotated[int, "bpr: sampled items per target"] = 1
    use_negatives: Annotated[
        float, "bpr: share of the samples that are the user's own dislikes"
    ] = 0.0
    polarity_weight: Annotated[float, "of the polarity loss, if the model predicts it"] = 1.0
    polarity_decay: Annotated[float, "AdamW's weight decay, of the polarity's tables"] = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """How it is learned."""

    epochs: Annotated[
        int, "at most; 0: until validation stops improving, or 20 where there is no validation data"
    ] = 0
    batch_size: Annotated[int, "windows of users' histories"] = 64
    learning_rate: float = 5e-3
    weight_decay: Annotated[float, "AdamW's, decoupled"] = 0.0
    clip_norm: Annotated[float, "largest norm of the gradient"] = 1.0
    averaging: Annotated[float, "decay of the moving average of parameters, per step; 0: none"] = (
        0.0
    )
    patience: Annotated[
        int, "epochs, of at least 100 steps, without a better validation score before stopping"
    ] = 4
    refit: Annotated[
        float, "go on with train and validation, for this share of the chosen epochs"
    ] = 0.0
    seed: Annotated[int, "same seed, same machine, same result"] = 42
    device: Annotated[str, "cpu, cuda or cuda:1"] = "cpu"
    threads: Annotated[int, "of the CPU; 0: PyTorch's choice"] = 0


@dataclass(frozen=True)
class EvaluationConfig:
    """How it is judged."""

    k: Annotated[int, "length of the lists"] = 10
    seen: Annotated[
        Literal["exclude", "include"],
        "items that the user has seen, in the lists; include them where people come back to items",
    ] = "exclude"
    select: Annotated[Literal["ndcg", "ndcg_likes"], "validation score that chooses the epoch"] = (
        "ndcg"
    )
    batch_size: Annotated[int, "users at a time"] = 256

    @property
    def measure(self) -> str:
        """The figure of `emorec.evaluation.top_k.Evaluation.summary` that ``select`` names."""
        return {"ndcg": "ndcg_any", "ndcg_likes": "ndcg_likes"}[self.select]


@dataclass(frozen=True)
class Config:
    """A whole run."""

    preset: str = "emorec"
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    sequence: SequenceConfig = field(default_factory=SequenceConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        _check_values(self)

    def updated(self, values: dict[str, Any], source: str) -> Config:
        """A copy with nested values replaced, e.g. ``{"training": {"epochs": 3}}``.

        Args:
            values: Sections of keys of values, as TOML gives them.
            source: Where they come from, for the error.

        Raises:
            ConfigError: If a key is unknown (the nearest is named) or a value does not fit.
        """
        return _updated(self, values, source, path="")

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
        for name, section in vars(self).items():
            if not dataclasses.is_dataclass(section):
                continue
            lines.append(f"[{name}]  # {type(section).__doc__}\n")
            hints = typing.get_type_hints(type(section), include_extras=True)
            for key, value in vars(section).items():
                lines.append(tomli_w.dumps({key: value}).rstrip("\n") + _meaning(hints[key]) + "\n")
            lines.append("\n")
        return "".join(lines)


def _meaning(hint: Any) -> str:
    """A comment for TOML: what a setting means, and what it can be."""
    about = list(getattr(hint, "__metadata__", ()))
    kind = typing.get_args(hint)[0] if about else hint
    if typing.get_origin(kind) is Literal:
        about.insert(0, " | ".join(typing.get_args(kind)))
    return f"  # {'; '.join(about)}" if about else ""


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
    if file is not None:
        try:
            text = read_text(file)
        except FileError as error:
            raise ConfigError(str(error)) from error
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # ValueError: also of too long a number
            raise ConfigError(f"{file}: is not TOML: {one_line(error)}") from error
        preset = str(shortened(values.pop("preset", preset)))
    if preset not in preset_names():
        raise ConfigError(
            f"preset {preset!r} is unknown; {suggestion(str(preset), preset_names())}"
        )
    text = resources.files("emorec.presets").joinpath(f"{preset}.toml").read_text(encoding="utf-8")
    config = Config(preset=preset).updated(tomllib.loads(text), f"preset {preset}")
    return config.updated(values, str(file)).with_settings(*settings)


def _updated(node: Any, values: dict[str, Any], source: str, path: str) -> Any:
    hints = typing.get_type_hints(type(node))
    changes = {}
    for key, value in values.items():
        name = f"{path}{key}"
        if key not in hints:
            raise ConfigError(
                f"{source}: {shortened(name)!r} is no setting; {suggestion(key, hints)}"
            )
        current = getattr(node, key)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {name!r} is a section, write {name}.key")
            changes[key] = _updated(current, value, source, f"{name}.")
        else:
            changes[key] = _fitted(hints[key], value, f"{source}: {name}")
    try:
        return dataclasses.replace(node, **changes)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _fitted(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) is Literal:
        choices = [str(choice) for choice in typing.get_args(hint)]
        if value not in choices:
            raise ConfigError(
                f"{where} is {shortened(value)!r}; {suggestion(str(shortened(value)), choices)}"
            )
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} is too large a number") from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} must be {_TYPE_NAMES[hint]}, got {shortened(value)!r}")
    if hint is int and abs(value) >= 2**63:
        right = "below 2**63" if value > 0 else "above -2**63"
        raise ConfigError(f"{where} must be {right}, got {shortened(value)}")
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _parse_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none (``gat`` for ``"gat"``)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # ValueError: also of too long a number
        return text


_RANGES: list[tuple[str, Callable[[Any], bool], str]] = [
    (
        "at least 1",
        lambda value: value >= 1,
        "data.min_user_events data.min_item_events split.n model.embedding_size graph.layers "
        "graph.heads sequence.heads sequence.max_length loss.samples loss.horizon "
        "training.batch_size training.patience evaluation.k evaluation.batch_size",
    ),
    (
        "at least 0",
        lambda value: value >= 0,
        "model.aversion model.neighbours graph.half_life sequence.layers loss.polarity_weight "
        "loss.polarity_decay training.weight_decay training.refit training.seed training.threads "
        "training.epochs",
    ),
    (
        "positive",
        lambda value: value > 0,
        "sequence.window sequence.shortest_half_life sequence.longest_half_life "
        "training.learning_rate training.clip_norm",
    ),
    (
        "finite",
        math.isfinite,
        "model.aversion graph.half_life sequence.shortest_half_life sequence.longest_half_life "
        "loss.polarity_weight loss.polarity_decay training.learning_rate training.weight_decay "
        "training.refit",
    ),
    (
        "at least 0 and below 1",
        lambda value: 0 <= value < 1,
        "graph.dropout sequence.dropout training.averaging",
    ),
    *(
        (f"at most {most:,}", functools.partial(operator.ge, most), names)
        for most, names in (
            # Far above what has been of use, and below what exhausts memory or time by itself.
            (64, "graph.layers sequence.layers"),
            (100, "training.refit"),
            (256, "graph.heads sequence.heads"),
            (1_000, "loss.horizon"),
            (1_024, "training.threads"),
            (16_384, "model.embedding_size"),
            (10_000, "model.neighbours loss.samples evaluation.k"),
            (100_000, "sequence.max_length"),
            (1_000_000, "training.epochs training.batch_size evaluation.batch_size"),
        )
    ),
    ("above 0 and below 1", lambda value: 0 < value < 1, "split.quantile"),
    ("between 0 and 1", lambda value: 0 <= value <= 1, "loss.use_negatives"),
]
"""What values must be, in words and as a test, and the settings of which that holds."""


def _check_values(config: Config) -> None:
    """Checks ranges, and the few choices that exclude each other."""
    for right, is_right, names in _RANGES:
        for name in names.split():
            if not is_right(_value(config, name)):
                raise ConfigError(f"{name} must be {right}, got {_value(config, name)}")
    for name, shares_out in (
        ("graph.heads", config.graph.conv == "gat"),
        ("sequence.heads", config.sequence.layers > 0 and config.sequence.projections),
    ):
        if shares_out and config.model.embedding_size % _value(config, name):
            raise ConfigError(
                f"{name} is {_value(config, name)}, which must divide model.embedding_size, "
                f"{config.model.embedding_size}"
            )
    if config.data.order == "none" and config.data.time_column:
        raise ConfigError(
            "data.order is 'none', which needs data.time_column '' (a log without times), got "
            f"{config.data.time_column!r}"
        )
    if config.graph.conv == "none" and config.sequence.layers == 0:
        raise ConfigError(
            "graph.conv is 'none' and sequence.layers is 0: a model needs one of the two encoders"
        )
    if config.model.polarity == "item" and config.sequence.layers == 0:
        raise ConfigError(
            "model.polarity is 'item', which judges by a user's events and needs sequence.layers "
            "of at least 1, got 0"
        )
    if config.model.neighbours and config.sequence.layers == 0:
        raise ConfigError(
            f"model.neighbours is {config.model.neighbours}, whose votes are of a user's events "
            "and need sequence.layers of at least 1, got 0"
        )
    if config.model.aversion and config.model.polarity != "item":
        raise ConfigError(
            f"model.aversion is {config.model.aversion}, which needs model.polarity 'item', "
            f"got {config.model.polarity!r}"
        )
    informs_polarity = config.graph.conv != "none" and config.graph.informs == "polarity"
    if informs_polarity and (config.sequence.layers == 0 or config.model.polarity == "none"):
        raise ConfigError(
            "graph.informs is 'polarity', which needs model.polarity 'next' or 'item' and "
            f"sequence.layers of at least 1, got {config.model.polarity!r} and "
            f"{config.sequence.layers}"
        )
    if config.graph.signed and not config.graph.feedback_nodes:
        raise ConfigError(
            "graph.signed needs graph.feedback_nodes: without them there is no negative relation"
        )
    if config.graph.half_life and config.graph.conv == "gat":
        raise ConfigError(
            f"graph.half_life is {config.graph.half_life}, which needs the means of graph.conv "
            "'sage', got 'gat', whose attention weighs events itself"
        )


def _value(config: Config, name: str) -> Any:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)
