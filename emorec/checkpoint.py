"""Where training stands, and the file from which it goes on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from emorec.averaging import ParameterAverage
from emorec.files import FileError, load_tensors, save_tensors

__all__ = ["EpochRecord", "Progress"]


@dataclass(frozen=True)
class EpochRecord:
    """One line of ``metrics.jsonl``."""

    epoch: int
    loss: float
    seconds: float
    valid: dict[str, float] = field(default_factory=dict)


@dataclass
class Progress:
    """Where training stands after an epoch.

    Attributes:
        of: What is trained, on what: another training cannot go on from here.
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
        self, path: Path, model: nn.Module, optimizer: Optimizer, average: ParameterAverage | None
    ) -> None:
        """Writes all that training needs to go on."""
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        if average is not None:
            tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
        about = {
            "of": self.of,
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
    ) -> Progress:
        """Reads what `save` wrote, into the model, the optimizer and the average too.

        Raises:
            FileError: If the file is damaged or belongs to another model or training.
        """
        tensors, about = load_tensors(path)
        if about.get("of") != of:
            raise FileError(
                f"{path}: belongs to a training on other data or with other settings; go on with "
                "those, or remove the file to start anew"
            )
        parts: dict[str, dict[str, Tensor]] = {
            name: {} for name in ("model", "best", "optimizer", "average")
        }
        moments: dict[int, dict[str, Any]] = {}
        try:
            for name, tensor in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            for name, tensor in parts["optimizer"].items():
                index, _, moment = name.partition(".")
                moments.setdefault(int(index), {})[moment] = tensor
            records = [EpochRecord(**record) for record in about["records"]]
            model.load_state_dict(parts["model"])
            if average is not None:
                average.load_state_dict(parts["average"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise FileError(f"{path}: belongs to another model ({error})") from error
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        return cls(of, parts["best"], about["best_score"], about["epochs_without_gain"], records)


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
