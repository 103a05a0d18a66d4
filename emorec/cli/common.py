"""What the commands share: options, errors as one line each, and the printing of results."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emorec.config import Config, ConfigError
from emorec.storage.files import one_line

if TYPE_CHECKING:
    from emorec.comparison import Comparison
    from emorec.data.id_files import IdFiles
    from emorec.processes import World
    from emorec.recommender import EmoRec

__all__ = [
    "RUN",
    "all_processes",
    "how_to_compute",
    "how_to_run",
    "id_files",
    "load_run",
    "print_results",
    "quick_imports",
    "ready_machine",
    "several_processes",
    "user_errors",
    "with_cold",
]

RUN = click.Path(file_okay=False, path_type=Path)


def how_to_compute(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of where and with what a trained run computes; see `load_run`."""
    for option in (
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


def how_to_run(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that override how a trained run ranks and computes; see `load_run`."""
    option = click.option(
        "--aversion",
        type=float,
        help="Weight of log P(liked) in the ranking: 0 ranks by next item and graph alone, 1 by "
        "the probability that an item is next and liked, larger values avoid more dislikes. "
        "Above 0, items near to a user's explicit dislikes lose score, the less the more events "
        "follow.  [default: the run's]",
    )
    return how_to_compute(option(command))


def with_cold(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the option that takes cold items into account."""
    return click.option(
        "--cold",
        is_flag=True,
        help="Take items without an event into account, by what is predicted from their features "
        "in the file of items that the run was trained with (emorec-train --items); the column "
        "cold says which they are.",
    )(command)


def user_errors(function: Callable[..., None]) -> Callable[..., None]:
    """Shows errors that the user can fix as one message, and warnings as one line each.

    A command that is interrupted ends with 130, as shells have it for Ctrl-C.
    """

    @wraps(function)
    def run(**options: Any) -> None:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                function(**options)
            except BrokenPipeError:  # nobody reads the output any more; click ends quietly
                raise
            except KeyboardInterrupt:  # click would end with 1
                click.echo("\nInterrupted.", err=True)
                raise SystemExit(130) from None
            except (ValueError, ImportError, OSError) as error:
                raise click.ClickException(str(error)) from error
            except (MemoryError, RuntimeError) as error:
                if _is_of_training(error):
                    raise click.ClickException(str(error)) from error
                if not _is_out_of_memory(error):
                    raise
                raise click.ClickException(
                    f"out of memory ({one_line(error)}); lower training.batch_size, "
                    "model.embedding_size or sequence.max_length"
                ) from error

    return run


def _is_of_training(error: Exception) -> bool:
    training = sys.modules.get(
        "emorec.training.loop"
    )  # where it is not imported, nothing was trained
    return training is not None and isinstance(error, training.TrainingError)


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch's on the CPU is a mere RuntimeError.
    names = {"OutOfMemoryError", "MemoryError"}
    return type(error).__name__ in names or "can't allocate memory" in str(error)


@contextmanager
def quick_imports() -> Iterator[None]:
    """Keeps the garbage collector from looking at what modules consist of, now and at the end.

    Modules live as long as the process. Looking at those of PyTorch and pandas while they are
    imported, and once more at exit, would take a fourth of the time of a short command.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_on:
            gc.enable()


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.secho(f"note: {message}", fg="yellow", err=True)


def ready_machine(config: Config) -> None:
    """Sets the threads, and fails early if the device or the backend is not available."""
    from emorec.building import backend_for, check_device
    from emorec.threads import use_threads

    check_device(config)
    if config.graph.conv != "none":
        backend_for(config)
    use_threads(config.training.threads)


def several_processes() -> bool:
    """Whether `torchrun` has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def all_processes(config: Config) -> Iterator[World]:
    """The processes that `torchrun` has started, of which the first one alone prints.

    Raises:
        ConfigError: If they would share a GPU.
        ProcessError: If the others cannot be reached, or one of them is gone.
    """
    from emorec.processes import joined

    device = config.training.device
    if several_processes() and device not in ("cpu", "cuda"):
        raise ConfigError(
            f"training.device is {device!r}, which several processes would share; with 'cuda', "
            "each takes a GPU of its own"
        )
    with joined(device, config.training.timeout) as world:
        if world.is_first:
            yield world
            return
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield world


def print_results(comparison: Comparison, k: int, ours: str | None = None) -> None:
    """Prints tables of the lists, and of predicted polarities if there are any.

    Args:
        comparison: Runs and baselines.
        k: Length of the lists.
        ours: A model whose differences to the others are printed too.
    """
    from emorec.reports.differences import differences_table
    from emorec.reports.tables import predictions_table, results_table

    results, predictions = comparison.results, comparison.predictions
    click.echo(results_table(results, k, comparison.notes))
    if ours is not None:
        click.echo(f"\n{differences_table(results, ours)}")
    if predictions:
        click.echo(f"\nPredicted polarity of the held-out events\n{predictions_table(predictions)}")


def load_run(run: Path, backend: str | None, aversion: float | None, device: str | None) -> EmoRec:
    """Loads a run folder, ready to compute on this machine.

    Where the run's backend is "auto", PyTorch computes: importing DGL takes longer than the lists
    of some users, and the results are the same.
    """
    with quick_imports():
        from emorec.recommender import EmoRec
        from emorec.run_folder import read_config

    if backend is None and read_config(run).model.backend == "auto":
        backend = "torch"
    recommender = EmoRec.load(run, backend, aversion, device)
    ready_machine(recommender.config)
    return recommender


def id_files(recommender: EmoRec) -> IdFiles:
    """Reads files of ids, with the columns and the encoding of the run's data."""
    from emorec.data.id_files import IdFiles

    data = recommender.config.data
    return IdFiles(data.user_column, data.item_column, data.encoding)
