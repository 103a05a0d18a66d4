"""The state of training, and the file that it resumes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from emorec.storage.files import FileError, one_line
from emorec.storage.tensors import load_tensors, save_tensors
from emorec.training.averaging import ParameterAverage
from emorec.training.sharding import ItemShards

__all__ = ["ENCODERS", "GRAPH", "EpochRecord", "Progress", "is_refit", "load_parameters"]

GRAPH, ENCODERS = "graph", "encoders"
"""The parts of a model that are trained one after the other."""

_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # AdamW's, of each parameter


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``metrics.jsonl``."""

    epoch: int
    loss: float
    seconds: float
    valid: dict[str, float] = field(default_factory=dict)
    part: str = ENCODERS


def is_refit(record: EpochRecord, records: Sequence[EpochRecord]) -> bool:
    """Whether a record, one of a training's records, is of its refit, which is not validated."""
    return bool(records[0].valid) and not record.valid


@dataclass
class Progress:
    """Where training stands after an epoch.

    Attributes:
        of: What is trained, on what: another training cannot continue from here.
        best: Parameters of the best epoch so far.
        best_score: Its score on validation.
        epochs_without_gain: Epochs since.
        records: What happened in each epoch.
    """

    of: str
    best: dict[str, Tensor]
    best_score: float = -math.inf
    epochs_without_gain: int = 0
    records: list[EpochRecord] = field(default_factory=list)

    @classmethod
    def fresh(cls, model: nn.Module, of: str) -> Progress:
        """The start of training."""
        return cls(of, best=_copied(model.state_dict()))

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return len(self.records)

    def advance(self, record: EpochRecord, score: float, model: nn.Module) -> None:
        """Notes an epoch that is done, and its parameters if it is the best."""
        self.records.append(record)
        if score > self.best_score:
            self.best, self.best_score = _copied(model.state_dict()), score
            self.epochs_without_gain = 0
        else:
            self.epochs_without_gain += 1

    def save(
        self,
        path: Path,
        model: nn.Module,
        optimizer: Optimizer,
        average: ParameterAverage | None,
        shards: ItemShards | None = None,
    ) -> None:
        """Writes all that training needs to continue.

        Where items are divided, every process must call it; the first one writes.
        """
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        moments = optimizer.state_dict()["state"]
        for index, values in moments.items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        if average is not None:
            tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
        if shards is not None:
            tensors = shards.gathered(tensors, optimizer)
            if not shards.world.is_first:
                return
        about = {
            "of": self.of,
            "moments": sorted(moments),  # a parameter without a gradient has none
            "best_score": self.best_score,
            "epochs_without_gain": self.epochs_without_gain,
            "records": [asdict(record) for record in self.records],
        }
        save_tensors(path, tensors, about)

    @classmethod
    def load(
        cls,
        path: Path,
        model: nn.Module,
        of: str,
        optimizer: Optimizer,
        average: ParameterAverage | None,
        shards: ItemShards | None = None,
    ) -> Progress:
        """Reads what `save` wrote, into the model, the optimizer and the average too.

        Raises:
            FileError: If the file is damaged or belongs to another model or training.
        """
        try:
            tensors, about = load_tensors(path)
        except FileError as error:
            raise FileError(f"{error}; remove it to start over") from error
        if about.get("of") != of:
            raise FileError(
                f"{path}: belongs to a training on other data or with other settings; "
                "continue with those, or remove the file to start over"
            )
        if shards is not None:
            tensors = shards.own(tensors, optimizer)
        parts: dict[str, dict[str, Tensor]] = {
            name: {} for name in ("model", "best", "optimizer", "average")
        }
        try:
            for name, tensor in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            moments = _checked_moments(parts["optimizer"], about["moments"], optimizer)
            progress = _checked_progress(of, parts["best"], about)
            _require_same(parts["best"], model.state_dict())
            if average is None:
                _require_same(parts["average"], {})
            else:
                _require_same(parts["average"], average.state_dict())
            load_parameters(model, parts["model"])
        except (KeyError, ValueError, TypeError) as error:
            raise FileError(
                f"{path}: belongs to another model or version of EmoRec ({one_line(error)}); "
                "remove it to start over"
            ) from error
        if average is not None:
            average.load_state_dict(parts["average"])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        return progress


def load_parameters(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Loads a model's parameters and buffers after checking them.

    Raises:
        ValueError: If names, types or shapes are not the model's, or a value cannot be one of it.
    """
    _require_same(tensors, model.state_dict())
    for name, tensor in tensors.items():
        if tensor.isnan().any():
            raise ValueError(f"{name} holds NaN")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:  # from checks of a module's own buffers
        raise ValueError(one_line(error)) from error


def _require_same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Compares names, types and shapes.

    Raises:
        ValueError: If they differ; names the first tensor.
    """
    for name in sorted(tensors.keys() ^ expected.keys()):
        raise ValueError(f"{name} {'is missing' if name in expected else 'is unknown'}")
    for name, tensor in tensors.items():
        own, right = (f"{t.dtype} {list(t.shape)}" for t in (tensor, expected[name]))
        if own != right:
            raise ValueError(f"{name} is {own}, must be {right}")


def _checked_moments(
    tensors: dict[str, Tensor], indices: Any, optimizer: Optimizer
) -> dict[int, dict[str, Tensor]]:
    """The optimizer's moments by parameter; of a wrong size, they would be read past their end."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if not isinstance(indices, list) or not all(
        type(index) is int and 0 <= index < len(parameters) for index in indices
    ):
        raise ValueError(f"the parameters that have moments are {indices!r}")
    expected = {
        f"{index}.{name}": torch.empty(()) if name == "step" else parameters[index].detach()
        for index in indices
        for name in _MOMENTS
    }
    _require_same(tensors, expected)
    return {index: {name: tensors[f"{index}.{name}"] for name in _MOMENTS} for index in indices}


def _checked_progress(of: str, best: dict[str, Tensor], about: dict[str, Any]) -> Progress:
    records = [EpochRecord(**record) for record in about["records"]]
    if [record.epoch for record in records] != list(range(1, len(records) + 1)):
        raise ValueError("the records are not of epochs 1, 2, ...")
    for record in records:
        if not all(isinstance(each, float | int) for each in (record.loss, record.seconds)):
            raise ValueError(f"epoch {record.epoch} has loss {record.loss!r}")
        if record.part not in (GRAPH, ENCODERS):
            raise ValueError(f"epoch {record.epoch} is of the part {record.part!r}")
        if not isinstance(record.valid, dict):
            raise ValueError(f"epoch {record.epoch} has validation scores {record.valid!r}")
    score, without_gain = about["best_score"], about["epochs_without_gain"]
    if not isinstance(score, float) or type(without_gain) is not int or without_gain < 0:
        raise ValueError(f"the best score is {score!r}, {without_gain!r} epochs ago")
    return Progress(of, best, score, without_gain, records)


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
