"""What the commands share: options, errors as one line each, and the printing of results."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import torch

from emorec.building import backend_for, check_device
from emorec.config import Config
from emorec.evaluation.differences import differences_table
from emorec.evaluation.tables import predictions_table, results_table
from emorec.experiment import Comparison
from emorec.files import one_line
from emorec.recommender import EmoRec
from emorec.threads import use_threads
from emorec.training import TrainingError

__all__ = [
    "RUN",
    "how_to_run",
    "load_run",
    "print_results",
    "ready_machine",
    "user_errors",
]

RUN = click.Path(file_okay=False, path_type=Path)


def how_to_run(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that stand in for what a run was trained with; see `load_run`."""
    for option in (
        click.option(
            "--aversion",
            type=float,
            help="How much to avoid what the user would dislike: 0 ranks by what comes next alone, "
            "1 by what comes next and is liked, more avoids more. Above 0, what is near to a "
            "user's latest explicit dislikes falls in the list.  [default: the run's]",
        ),
        click.option(
            "--device", help='"cpu", "cuda" or "cuda:1".  [default: where the run was trained]'
        ),
        click.option(
            "--backend",
            type=click.Choice(["auto", "dgl", "torch"]),
            help="Library for sums over edges; auto is DGL where it can be imported, else PyTorch."
            "  [default: the run's]",
        ),
    ):
        command = option(command)
    return command


def user_errors(function: Callable[..., None]) -> Callable[..., None]:
    """Shows errors that a user can mend as one message, and warnings as one line each."""

    @wraps(function)
    def run(**options: Any) -> None:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                function(**options)
            except BrokenPipeError:  # whoever read the output has gone; click ends quietly
                raise
            except (ValueError, TrainingError, ImportError, OSError) as error:
                raise click.ClickException(str(error)) from error
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                raise click.ClickException(
                    f"there is not enough memory ({one_line(error)}); lower training.batch_size, "
                    "evaluation.batch_size, model.embedding_size or loss.samples"
                ) from error

    return run


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error)  # PyTorch's on the CPU is a mere RuntimeError


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.secho(f"note: {message}", fg="yellow", err=True)


def ready_machine(config: Config) -> None:
    """Fails before any long work if the device or the backend cannot be had."""
    check_device(config)
    if config.graph.conv != "none":
        backend_for(config)
    use_threads(config.training.threads)


def print_results(comparison: Comparison, k: int, ours: str | None = None) -> None:
    """Tables of the lists, and of predicted polarities if there are any.

    Args:
        comparison: Runs and baselines.
        k: Length of the lists.
        ours: A model whose differences to the others are printed too.
    """
    results, predictions = comparison.results, comparison.predictions
    click.echo(results_table(results, k, comparison.notes))
    if ours is not None:
        click.echo(f"\n{differences_table(results, ours)}")
    if predictions:
        click.echo(f"\nPredicted polarity of the held-out events\n{predictions_table(predictions)}")


def load_run(run: Path, backend: str | None, aversion: float | None, device: str | None) -> EmoRec:
    """What a run folder holds, ready to compute here."""
    recommender = EmoRec.load(run, backend, aversion, device)
    ready_machine(recommender.config)
    return recommender
