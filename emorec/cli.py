"""The commands: emorec-train, emorec-evaluate, emorec-recommend, emorec doctor."""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click
import torch

from emorec.building import check_device
from emorec.checkpoint import EpochRecord
from emorec.config import Config, load_config, preset_names
from emorec.data.datasets import DATASETS
from emorec.data.graph import import_dgl
from emorec.data.splits import Split
from emorec.doctor import report
from emorec.evaluation.ranking import Evaluation
from emorec.evaluation.tables import predictions_table, results_table
from emorec.experiment import (
    data_card,
    judge_run,
    prepare,
    train_run,
    write_results,
)
from emorec.files import to_json
from emorec.ops.build import build_in_cache
from emorec.recommender import EmoRec
from emorec.run_folder import load_split, read_config
from emorec.training import TrainingError

__all__ = ["evaluate", "main", "recommend", "train"]

_RUN = click.Path(file_okay=False, path_type=Path)
_device_option = click.option(
    "--device", help='"cpu", "cuda" or "cuda:1".  [default: where the run was trained]'
)
_aversion_option = click.option(
    "--aversion",
    type=float,
    help="How much to avoid what the user would dislike: 0 ranks by what comes next alone, 1 by "
    "what comes next and is liked, more avoids more. Above 0, what is near to a user's latest "
    "explicit dislikes falls in the list.  [default: the run's]",
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
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

    return run


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.secho(f"note: {message}", fg="yellow", err=True)


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--preset",
    type=click.Choice(preset_names()),
    metavar="NAME",
    help=f"Model: {', '.join(preset_names())}. All but emorec are the paper's.  [default: emorec]",
)
@click.option(
    "--dataset",
    help=f"Name of a data set ({', '.join(DATASETS)}) or a file (csv, tsv, "
    "jsonl, parquet; may be .gz).  [default: synthetic]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where data sets are, or go.  [default: $EMOREC_DATA_DIR or ~/.cache/emorec]",
)
@click.option(
    "--backend",
    type=click.Choice(["dgl", "torch"]),
    help="Library for sums over edges.  [default: dgl]",
)
@click.option(
    "--epochs",
    type=int,
    help="Most epochs; training stops earlier when validation stops improving.",
)
@click.option("--batch-size", type=int, help="Windows of users' histories per step.")
@click.option("--learning-rate", type=float, help="Step size of AdamW.")
@click.option("--embedding-size", type=int, help="Width of all vectors.")
@click.option("--seed", type=int, help="Same seed, same machine, same result.")
@click.option("--device", help='"cpu", "cuda" or "cuda:1".')
@click.option("--threads", type=int, help="CPU threads; 0 leaves the choice to PyTorch.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file of settings, such as the config.toml of a run.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Any other setting; may be given several times. A run's config.toml lists them all.",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to make for the run.  [default: runs/DATASET-PRESET-TIME]",
)
@click.option(
    "--resume",
    type=_RUN,
    metavar="RUN",
    help="Go on with a run that was stopped, with its own settings.",
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
@_command
def train(
    preset: str | None,
    dataset: str | None,
    data_dir: Path | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    run_dir: Path | None,
    resume: Path | None,
    quiet: bool,
    **flags: Any,
) -> None:
    """Trains a recommender and judges it on held-out events, beside simple baselines.

    Without options it trains the flagship on a generated log, in a minute or two. Everything is
    written into one run folder; emorec-evaluate and emorec-recommend take that folder.

    \b
    Examples:
      emorec-train
      emorec-train --dataset ml-1m --preset diff-gat-thp-polarity
      emorec-train --dataset ratings.csv --set data.user_column=userId
      emorec-train --resume runs/ml-1m-emorec-20260102-030405
    """  # noqa: D301 (click's mark for text that is not to be wrapped)
    progress = not quiet and sys.stderr.isatty()
    flags = {name: value for name, value in flags.items() if value is not None}
    if resume is not None:
        others = preset, dataset, data_dir, settings, config_file, run_dir
        if any(others) or set(flags) - {"epochs", "threads"}:
            raise click.UsageError(
                "--resume goes on with the run's own settings; of the others only "
                "--epochs and --threads may be given with it"
            )
        config = _with_flags(read_config(resume), flags)
        folder, split = resume, load_split(resume)
        if not len(split.test):
            raise click.UsageError(
                f"{resume} holds no test part: it was made by EmoRec.save, not by emorec-train"
            )
        click.echo(f"Going on with {folder}")
    else:
        config = load_config(preset or "emorec", config_file)
        if preset not in (None, config.preset):
            raise click.UsageError(
                f"--preset {preset} does not fit {config_file}, which is of preset {config.preset}"
            )
        if dataset is not None:
            config = config.updated({"data": {"dataset": dataset}}, "--dataset")
        config = _with_flags(config, flags).with_settings(*settings)
        if run_dir is not None and run_dir.exists() and any(run_dir.iterdir()):
            raise click.UsageError(
                f"{run_dir} is there already and is not empty; "
                f"name another --run-dir, or use --resume {run_dir}"
            )
        _ready_machine(config)
        folder = run_dir or _new_folder(config)
        try:
            split = _prepared(config, folder, data_dir, progress)
        finally:
            if run_dir is None and not any(folder.iterdir()):
                folder.rmdir()  # there is nothing to go on with
    _ready_machine(config)
    try:
        _train_and_judge(config, split, folder, progress)
    except (KeyboardInterrupt, BrokenPipeError) as stop:
        click.echo(
            f"\nStopped. Nothing is lost up to the last whole epoch; go on with\n"
            f"  emorec-train --resume {shlex.quote(str(folder))}",
            err=True,
        )
        if isinstance(stop, BrokenPipeError):
            raise
        raise SystemExit(130) from None


def _train_and_judge(config: Config, split: Split, folder: Path, progress: bool) -> None:
    started = time.perf_counter()
    recommender = train_run(config, split, folder, _print_epoch, progress)
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    click.echo(f"Trained in {minutes} min {seconds} s.\n\nTest part, looked at once:")
    k = config.evaluation.k
    results, predictions = judge_run(recommender, k, progress)
    write_results(folder, config, split, results, predictions, recommender.records)
    _print_results(results, predictions, k)
    user = shlex.quote(str(split.train.users.ids[0]))
    run = shlex.quote(str(folder))
    click.echo(
        f"\nThe run is in {folder}\n"
        f"  read      {folder / 'report.html'}\n"
        f"  ask       emorec-recommend {run} --user {user}\n"
        f"  evaluate  emorec-evaluate {run}"
    )


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=_RUN)
@click.option("-k", type=click.IntRange(1), help="Length of the lists.  [default: the run's]")
@click.option(
    "--backend",
    type=click.Choice(["dgl", "torch"]),
    help="Library for sums over edges.  [default: the run's]",
)
@_device_option
@_aversion_option
@click.option("--json", "as_json", is_flag=True, help="All metrics as JSON.")
@_command
def evaluate(
    run: Path,
    k: int | None,
    backend: str | None,
    device: str | None,
    aversion: float | None,
    as_json: bool,
) -> None:
    """Judges a trained RUN on its test part, beside simple baselines.

    \b
    any       every held-out item counts as relevant
    likes     only those with positive feedback count
    dislikes  held-out items with negative feedback: recommended ones count
              against a model; their share is that of dislikes among all
              held-out items that were recommended, and nDCL weighs them by
              rank and strength, 1 being the worst list there is
    NDCG      divides by what k hits would give, however few items are held out
    both      NDCG of likes less that of dislikes

    Where the model predicts which items a user will like, the predictions for the held-out events
    are judged too, beside the mean reaction to each item: how often a like is put above a dislike
    of the same user (PolAUC) or of anybody (ROC-AUC), the mean squared error (Brier), and how far
    probabilities are from what happened (ECE).
    """  # noqa: D301
    recommender = _loaded(run, backend, aversion, device)
    if len(recommender.split.test) == 0:
        raise click.UsageError(f"{run} holds no test part")
    k = k or recommender.config.evaluation.k
    results, predictions = judge_run(recommender, k, sys.stderr.isatty())
    if as_json:
        summaries = {
            name: (results[name].summary() if name in results else {}) | predictions.get(name, {})
            for name in results | predictions
        }
        click.echo(to_json(summaries, indent=2))
    else:
        _print_results(results, predictions, k)


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=_RUN)
@click.option(
    "--user",
    "users",
    multiple=True,
    required=True,
    help="The user's own id; may be given several times.",
)
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of what happened since, or of new users: csv, tsv, jsonl or parquet, with the "
    "columns of the run's data (user_id, item_id, rating and timestamp unless set otherwise), its "
    "encoding, times and feedback rules. The lists answer to it; nothing is trained.",
)
@click.option(
    "-k", type=click.IntRange(1), default=10, show_default=True, help="Length of the lists."
)
@click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
)
@click.option(
    "--backend",
    type=click.Choice(["dgl", "torch"]),
    help="Library for sums over edges.  [default: the run's]",
)
@_device_option
@_aversion_option
@_command
def recommend(
    run: Path,
    users: tuple[str, ...],
    events: Path | None,
    k: int,
    output: str,
    backend: str | None,
    device: str | None,
    aversion: float | None,
) -> None:
    """Recommends items that a user has not met, from a trained RUN.

    Users of whom neither the run nor --events knows anything get the most popular items, and are
    told so.

    \b
    Examples:
      emorec-recommend runs/ml-1m-emorec-20260102-030405 --user 42
      emorec-recommend RUN --user 42 --user somebody-new --events today.csv --aversion 4
    """  # noqa: D301
    recommender = _loaded(run, backend, aversion, device)
    lists = recommender.recommend(users, k, events)
    served = set(lists["user"])
    for user in dict.fromkeys(users):
        if user not in served:
            click.secho(
                f"note: user {user!r} has met every item; there is nothing left to recommend",
                fg="yellow",
                err=True,
            )
    if output == "json":
        click.echo(lists.to_json(orient="records", force_ascii=False, indent=2))
    elif output == "csv":
        click.echo(lists.to_csv(index=False), nl=False)
    elif len(lists):
        click.echo(lists.to_string(index=False, float_format="{:.4f}".format))


@click.group()
def main() -> None:
    """EmoRec: recommendations for people who both like and dislike things."""


@main.command()
@click.option("--build", is_flag=True, help="Compile attention and loss into the build cache.")
@_command
def doctor(build: bool) -> None:
    """Say which parts work here, and how to mend those that do not."""
    if build:
        click.echo("Compiling attention and loss; this takes a minute or two.")
        try:
            build_in_cache()
        except RuntimeError as error:  # of the compiler, with its output
            raise click.ClickException(str(error)) from error
    click.echo(report())


for _each in (train, evaluate, recommend):
    main.add_command(_each)


def _with_flags(config: Config, flags: dict[str, Any]) -> Config:
    for flag, value in flags.items():
        section = "model" if flag in ("backend", "embedding_size") else "training"
        config = config.updated({section: {flag: value}}, f"--{flag.replace('_', '-')}")
    return config


def _new_folder(config: Config) -> Path:
    """Makes a folder that no other run has, even if it starts within the same second."""
    data = Path(config.data.dataset).name.split(".")[0]
    name = f"{data}-{config.preset}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = Path("runs") / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}")


def _ready_machine(config: Config) -> None:
    """Fails before any long work if the device or the backend cannot be had."""
    check_device(config)
    if config.model.backend == "dgl" and config.graph.conv != "none":
        import_dgl()
    if config.training.threads:
        torch.set_num_threads(config.training.threads)


def _prepared(config: Config, folder: Path, data_dir: Path | None, progress: bool) -> Split:
    split, report = prepare(config, folder, data_dir, progress)
    card = data_card(split)
    if report is not None:
        click.echo(str(report))
        rare = report.rows_kept - len(split.log) - split.dropped
        if rare:
            click.echo(f"{rare:,} rows of rare users and items dropped (k-core)")
    click.echo(
        f"{config.data.dataset}: {card['users']:,} users, {card['items']:,} items, "
        f"{card['interactions']:,} interactions, of which the parts are"
    )
    click.echo(str(split.report))
    click.echo()
    return split


def _print_epoch(records: list[EpochRecord]) -> None:
    record = records[-1]
    scores = "  ".join(f"{name} {value:.4f}" for name, value in record.valid.items())
    phase = "refit" if records[0].valid and not record.valid else "epoch"
    click.echo(
        f"{phase} {record.epoch:>3}  {record.seconds:6.1f} s  loss {record.loss:.4f}  {scores}"
    )


def _print_results(
    results: dict[str, Evaluation], predictions: dict[str, dict[str, float]], k: int
) -> None:
    click.echo(results_table(results, k))
    if predictions:
        click.echo(f"\nPredicted polarity of the held-out events\n{predictions_table(predictions)}")


def _loaded(run: Path, backend: str | None, aversion: float | None, device: str | None) -> EmoRec:
    recommender = EmoRec.load(run, backend, aversion, device)
    _ready_machine(recommender.config)
    return recommender
