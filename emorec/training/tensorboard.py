"""Curves of training for TensorBoard, written while it runs."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from emorec.training.checkpoint import EpochRecord, is_refit

__all__ = ["TensorBoard", "require_tensorboard"]


def require_tensorboard() -> Any:
    """The class that writes files for TensorBoard.

    Raises:
        ImportError: If the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "curves for TensorBoard need the package tensorboard: "
            f'pip install "emorec[tensorboard]" ({error})'
        ) from error
    return SummaryWriter


class TensorBoard:
    """Writes the loss and the validation scores of each epoch as scalars.

    Their names are ``PART/loss`` and ``PART/SCORE``, such as ``encoders/ndcg``; those of the refit
    begin with ``PART refit``. The step is the epoch. A context manager: the file is closed at the
    end.

    Args:
        folder: Where TensorBoard is to look; it is created if need be. A resumed training continues
            the curves in the folder of the one that was stopped.

    Raises:
        ImportError: If the package tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = require_tensorboard()(str(folder))

    def __call__(self, records: list[EpochRecord]) -> None:
        """Writes the newest of a training's records; `emorec.EmoRec.fit` calls it per epoch."""
        record = records[-1]
        name = f"{record.part} refit" if is_refit(record, records) else record.part
        for score, value in {"loss": record.loss, **record.valid}.items():
            self._writer.add_scalar(f"{name}/{score}", value, record.epoch)
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._writer.close()
