"""Everything a run can be told, with defaults, files and command-line overrides."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import tomli_w

from emorec.suggestions import suggestion

__all__ = ["Config", "ConfigError", "load_config", "parse_setting", "preset_names"]


class ConfigError(ValueError):
    """A configuration that cannot be used, with what would be right."""


@dataclass(frozen=True)
class DataConfig:
    """What to read."""

    dataset: str = "synthetic"  # a name of the registry, or a file (csv, tsv, jsonl, parquet)
    user_column: str = "user_id"  # these five are for files
    item_column: str = "item_id"
    time_column: str = "timestamp"
    rating_column: str = "rating"
    feedback_column: str = ""  # holds the kind of feedback itself; rating and rules are not used
    rules: str = ""  # name or file of feedback rules; empty: the data set's own, or "ratings"
    time_unit: Literal["auto", "s", "ms"] = "auto"  # of whole numbers in files; auto: by size
    time_format: str = ""  # of dates in files, such as "%d/%m/%Y"; empty: ISO 8601
    encoding: str = "utf-8"  # of text files
    min_user_events: int = 1  # k-core: fewer rows and the user is dropped
    min_item_events: int = 1  # k-core: fewer rows and the item is dropped

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
            "encoding": self.encoding,
        }


@dataclass(frozen=True)
class SplitConfig:
    """How to hold events out; validation is carved out of train by the same rule."""

    method: Literal["leave_last_out", "time"] = "leave_last_out"
    n: int = 10  # leave_last_out: the newest events of each user with more than n
    quantile: float = 0.9  # time: share of events before the cut


@dataclass(frozen=True)
class ModelConfig:
    """What both encoders share."""

    embedding_size: int = 64  # width of all vectors
    backend: Literal["dgl", "torch"] = "dgl"  # sums over edges
    polarity: Literal["none", "next", "item"] = "none"  # predict that of the next event, of items
    aversion: float = 0.0  # weight in the ranking of how likely an item is liked; needs "item"
    neighbours: int = 0  # similar items per item, found by counting, that vote in the ranking


@dataclass(frozen=True)
class GraphConfig:
    """The graph encoder."""

    conv: Literal["none", "sage", "gat"] = "sage"
    feedback_nodes: bool = True  # False: items send to users directly
    user_embeddings: bool = True  # False: users are known by their events alone
    signed: bool = False  # negative feedback repels the user's vector
    gated: bool = False  # a learned weight on the user's vector beside the sequence's state
    informs: Literal["everything", "polarity"] = "everything"  # or only what will be liked
    layers: int = 2
    heads: int = 1  # of GAT
    half_life: float = 0.0  # days after which an event weighs half in a mean; 0: all alike
    dropout: float = 0.2


@dataclass(frozen=True)
class SequenceConfig:
    """The sequence encoder."""

    layers: int = 1  # 0: no sequence encoder
    heads: int = 4
    max_length: int = 100  # tokens: [CLS] and the newest events
    window: float = 101.0  # reach of the positional decay, in positions
    decay: Literal["multiplicative", "additive"] = "multiplicative"
    shortest_half_life: float = 0.04  # days, at the start of training
    longest_half_life: float = 365.0  # days, at the start of training
    projections: bool = False  # learned queries, keys and outputs
    feedback_input: bool = False  # the kind of feedback of each event as input
    dropout: float = 0.2
    attention: Literal["auto", "reference", "fused"] = "auto"


@dataclass(frozen=True)
class LossConfig:
    """What is learned."""

    ranking: Literal["bpr", "softmax"] = "bpr"
    targets: Literal["any", "positive", "explicit_positive"] = "positive"  # events to rank high
    horizon: int = 1  # events to come that each state predicts
    samples: int = 1  # bpr: sampled items per target
    use_negatives: float = 0.0  # bpr: share of the samples that are the user's own dislikes
    polarity_weight: float = 1.0  # of the polarity loss, if the model predicts it
    polarity_decay: float = 0.0  # AdamW's weight decay, of the polarity's tables


@dataclass(frozen=True)
class TrainingConfig:
    """How it is learned."""

    epochs: int = 20
    batch_size: int = 64  # windows of users' histories
    learning_rate: float = 5e-3
    weight_decay: float = 0.0  # AdamW's, decoupled
    clip_norm: float = 1.0  # largest norm of the gradient
    averaging: float = 0.0  # decay of the moving average of parameters, per step; 0: none
    patience: int = 4  # epochs without a better validation score before stopping
    refit: float = 0.0  # go on with train and validation, for this share of the chosen epochs
    seed: int = 42
    device: str = "cpu"
    threads: int = 0  # of the CPU; 0: PyTorch's choice


@dataclass(frozen=True)
class EvaluationConfig:
    """How it is judged."""

    k: int = 10  # length of the lists
    select: Literal["ndcg", "ndcg_likes"] = "ndcg"  # validation score that chooses the epoch
    batch_size: int = 256  # users at a time

    @property
    def measure(self) -> str:
        """The figure of `emorec.evaluation.ranking.Evaluation.summary` that ``select`` names."""
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
        """The configuration as TOML, every value written out."""
        return tomli_w.dumps(dataclasses.asdict(self))


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
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: cannot be read ({error})") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file}: is not TOML: {error}") from error
        preset = str(values.pop("preset", preset))
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
            raise ConfigError(f"{source}: {name!r} is no setting; {suggestion(key, hints)}")
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
            raise ConfigError(f"{where} is {value!r}; {suggestion(str(value), choices)}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} is too large a number") from None
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} must be {_TYPE_NAMES[hint]}, got {value!r}")
    if hint is int and value >= 2**63:
        raise ConfigError(f"{where} must be below 2**63, got {value}")
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _parse_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none (``gat`` for ``"gat"``)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


_RANGES: list[tuple[str, Callable[[Any], bool], str]] = [
    (
        "at least 1",
        lambda value: value >= 1,
        "data.min_user_events data.min_item_events split.n model.embedding_size graph.layers "
        "graph.heads sequence.heads sequence.max_length loss.samples loss.horizon training.epochs "
        "training.batch_size training.patience evaluation.k evaluation.batch_size",
    ),
    (
        "at least 0",
        lambda value: value >= 0,
        "model.aversion model.neighbours graph.half_life sequence.layers loss.polarity_weight "
        "loss.polarity_decay training.weight_decay training.refit training.seed training.threads",
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
