"""Every setting of a run, with its default, range and meaning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "DataConfig",
    "EvaluationConfig",
    "GraphConfig",
    "LossConfig",
    "ModelConfig",
    "Section",
    "SequenceConfig",
    "SplitConfig",
    "TrainingConfig",
]

# Upper limits are far above what has been of use, and below what exhausts memory or time.
_MANY = 1_000_000
_LARGEST_INTEGER = 2**63 - 1


class Section(BaseModel):
    """Settings that belong together; unknown ones are refused, and none changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DataConfig(Section):
    """What to read."""

    dataset: str = Field(
        "synthetic", description="a name of the registry, or a file (csv, tsv, jsonl, parquet)"
    )
    user_column: str = Field("user_id", description="column of user ids")
    item_column: str = Field("item_id", description="column of item ids")
    time_column: str = Field("timestamp", description='of times; "" for a log without times')
    rating_column: str = Field("rating", description="column that rules call rating")
    feedback_column: str = Field(
        "", description="holds the kind of feedback itself; rating and rules are not used"
    )
    rules: str = Field(
        "",
        description='name or file of feedback rules; "": the data set\'s own, or for stars from 1 '
        "to 5",
    )
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = Field(
        "auto", description="of numbers in files; auto: by size"
    )
    time_format: str = Field("", description='of dates in files, such as "%d/%m/%Y"; "": ISO 8601')
    order: Literal["file", "none"] = Field(
        "file", description="of events without times: that of rows, or a random one"
    )
    encoding: str = Field("utf-8", description="of text files")
    names: str = Field(
        "", description='columns of a csv file without a header, such as "user_id,item_id"'
    )
    decimal: Literal[".", ","] = Field(".", description="of numbers in csv files")
    items: str = Field(
        "",
        description="file of items with their titles and features (csv, tsv, jsonl, parquet); "
        '"": the data set\'s own, if it has any',
    )
    title_column: str = Field(
        "title", description='of titles, in the file of items; "": there are no titles'
    )
    item_features: str = Field(
        "*",
        description='columns of the file of items that describe them, such as "genres,year"; "*": '
        'all but the ids; "": none',
    )
    min_user_events: int = Field(
        1, ge=1, le=_MANY, description="k-core: users with fewer rows are dropped"
    )
    min_item_events: int = Field(
        1, ge=1, le=_MANY, description="k-core: items with fewer rows are dropped"
    )

    @property
    def reading(self) -> dict[str, Any]:
        """The arguments of `emorec.data.readers.read_interactions`, without the rules."""
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

    @property
    def reading_items(self) -> dict[str, Any]:
        """The arguments of `emorec.data.items.read_items` after the items."""
        return {
            "item": self.item_column,
            "title": self.title_column,
            "encoding": self.encoding,
            "decimal": self.decimal,
            "features": self.item_features,
        }


class SplitConfig(Section):
    """How events are held out, for the test split and likewise for validation."""

    method: Literal["leave_last_out", "time", "random"] = Field(
        "leave_last_out",
        description="each user's newest events, all after one time, or random ones",
    )
    n: int = Field(
        10,
        ge=1,
        le=_MANY,
        description="leave_last_out: the newest events of each user with more than n",
    )
    quantile: float = Field(
        0.9, gt=0, lt=1, description="time, random: share of events that are not held out"
    )
    days: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="time: length of the held-out part, up to the newest event; 0: by the quantile",
    )
    gap: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="time: minutes before each cut whose events are left out",
    )

    @property
    def rule(self) -> dict[str, Any]:
        """The arguments of `emorec.data.splits.split_interactions` after the log."""
        return self.model_dump()


class ModelConfig(Section):
    """What both encoders share, and the terms of the ranking."""

    embedding_size: int = Field(64, ge=1, le=16_384, description="width of all vectors")
    backend: Literal["auto", "dgl", "torch"] = Field(
        "auto", description="sums over edges; auto: DGL where it can be imported"
    )
    polarity: Literal["none", "next", "item"] = Field(
        "none", description="predict the polarity of the next event, or of any item"
    )
    aversion: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of log P(liked) and of dislikes in the ranking",
    )
    start: Literal["random", "log"] = Field(
        "random",
        description="item embeddings before training: random, or singular vectors of the log",
    )


class GraphConfig(Section):
    """The graph encoder."""

    conv: Literal["none", "sage", "gat", "sum"] = Field(
        "sage", description="none: no graph encoder; sum: one layer of weighted sums"
    )
    feedback_nodes: bool = Field(True, description="false: items send messages to users directly")
    user_embeddings: bool = Field(
        True, description="false: users are represented by their events alone"
    )
    signed: bool = Field(False, description="negative feedback repels the user's vector")
    informs: Literal["everything", "polarity"] = Field(
        "everything", description="both predictions, or that of the polarity alone"
    )
    layers: int = Field(2, ge=1, le=64, description="of SAGE or GAT")
    heads: int = Field(1, ge=1, le=256, description="of GAT")
    half_life: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="days after which an event has half its weight in a mean; 0: all weigh alike",
    )
    size: int = Field(128, ge=1, le=16_384, description="width of the vectors of sum")
    batch_size: int = Field(256, ge=1, le=_MANY, description="users per batch, of sum")
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False, description="of sum")
    paths: int = Field(
        0, ge=0, le=10_000, description="similar items per item, for the counted paths; 0: none"
    )


class SequenceConfig(Section):
    """The sequence encoder."""

    layers: int = Field(1, ge=0, le=64, description="0: no sequence encoder")
    heads: int = Field(4, ge=1, le=256)
    max_length: int = Field(100, ge=1, le=100_000, description="tokens: [CLS] and newest events")
    window: float = Field(101.0, gt=0, description="reach of the positional decay, in positions")
    decay: Literal["multiplicative", "additive"] = "multiplicative"
    projections: bool = Field(False, description="learned queries, keys and outputs")
    feedback_input: bool = Field(False, description="the kind of feedback of each event as input")
    request_time: bool = Field(
        False,
        description="the time from the last event to the request as input; in evaluation, to the "
        "first held-out event",
    )
    dropout: float = Field(
        0.2,
        ge=-1,
        lt=1,
        description="below 0: 0.3, or 0.2 for logs of 300,000 events and more",
    )
    attention: Literal["auto", "reference", "fused"] = Field(
        "auto", description="auto: the compiled operator where it can be used"
    )


class LossConfig(Section):
    """The training objective."""

    ranking: Literal["bpr", "softmax"] = Field(
        "bpr", description="against a sampled item, or the catalogue"
    )
    targets: Literal["any", "positive", "explicit_positive"] = Field(
        "positive", description="events to rank high"
    )
    negatives: int = Field(
        -1,
        ge=-1,
        le=_MANY,
        description="softmax: items drawn per step to stand for the catalogue; 0: the whole "
        "catalogue; -1: the whole up to 50,000 items, else 4096",
    )
    horizon: int = Field(
        1,
        ge=0,
        le=1_000,
        description="next events that each state predicts; 0: a third of a user's validation "
        "events, at most 30",
    )
    use_negatives: float = Field(
        0.0, ge=0, le=1, description="bpr: share of the samples that are the user's own dislikes"
    )
    polarity_decay: float = Field(
        0.0,
        ge=-1,
        allow_inf_nan=False,
        description="AdamW's weight decay of the polarity's tables; below 0: 64 over the log's "
        "events per item, at most 0.75",
    )


class TrainingConfig(Section):
    """The optimisation."""

    epochs: int = Field(
        0,
        ge=0,
        le=_MANY,
        description="at most; 0: until validation stops improving, or 20 without validation data",
    )
    batch_size: int = Field(64, ge=1, le=_MANY, description="windows of users' histories")
    learning_rate: float = Field(5e-3, gt=0, allow_inf_nan=False)
    averaging: float = Field(
        0.0, ge=0, lt=1, description="decay of the moving average of parameters, per step; 0: none"
    )
    patience: int = Field(
        4,
        ge=1,
        le=_MANY,
        description="epochs, of at least 100 steps, without a better validation score before "
        "stopping",
    )
    refit: float = Field(
        0.0,
        ge=0,
        le=100,
        description="continue on train and validation, for this share of the chosen epochs",
    )
    seed: int = Field(
        42, ge=0, le=_LARGEST_INTEGER, description="same seed, same machine, same result"
    )
    device: str = Field("cpu", description="cpu, cuda or cuda:1")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of matrix products and attention in training; parameters, their updates and "
        "validation stay in float32",
    )
    threads: int = Field(0, ge=0, le=1_024, description="of the CPU; 0: PyTorch's choice")
    shard_items: bool = Field(
        False,
        description="each of several processes has the vectors of a part of the items; needs "
        "loss.ranking softmax, and no graph encoder",
    )
    timeout: float = Field(
        1800.0,
        gt=0,
        le=_MANY,
        description="seconds that one of several processes waits for another before all stop",
    )


class EvaluationConfig(Section):
    """The evaluation of lists."""

    k: int = Field(10, ge=1, le=10_000, description="length of the lists")
    seen: Literal["exclude", "include"] = Field(
        "exclude",
        description="items that the user has seen, in the lists; include them where people come "
        "back to items",
    )
    select: Literal["ndcg", "ndcg_likes", "ndcg_mean"] = Field(
        "ndcg",
        description="validation score that chooses epoch and weights: NDCG of all held-out events, "
        "of likes, or the mean of both",
    )
