"""emorec-train."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emorec.cli.common import (
    RUN,
    all_processes,
    print_results,
    quick_imports,
    ready_machine,
    several_processes,
    user_errors,
)
from emorec.cli.invocation import command_line
from emorec.config import Config, load_config, parse_setting, preset_names
from emorec.data.registry import DATASETS
from emorec.storage.folders import is_unused, only_writer
from emorec.texts import count

if TYPE_CHECKING:
    from emorec.comparison import Comparison
    from emorec.data.splits import Split
    from emorec.processes import World
    from emorec.training.checkpoint import EpochRecord

__all__ = ["learn_on", "train"]


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--preset",
    type=click.Choice(preset_names()),
    metavar="NAME",
    help=f"Model: {', '.join(preset_names())}. All but emorec and "
    "emorec-graph are the paper's.  [default: emorec]",
)
@click.option(
    "--dataset",
    help=f"Name of a data set ({', '.join(DATASETS)}), a file (csv, tsv, jsonl, parquet; may be "
    ".gz) or the URL of a service's store (sqlite:///events.db).  [default: synthetic]",
)
@click.option(
    "--items",
    help="File of items: csv, tsv, jsonl or parquet, with the log's column of items, a column "
    "title, which lists then show, and features, by which items without an event can be "
    "recommended (emorec-recommend --cold).  [default: the data set's own, if any]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder of the data sets; missing ones are downloaded into it.  [default: "
    "$EMOREC_DATA_DIR or ~/.cache/emorec]",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "dgl", "torch"]),
    help="Library for sums over edges; auto is DGL where it can be imported, else PyTorch.  "
    "[default: auto]",
)
@click.option(
    "--epochs",
    type=int,
    help="Maximum number of epochs.  [default: until validation stops improving]",
)
@click.option("--batch-size", type=int, help="Windows of users' histories per step.")
@click.option("--learning-rate", type=float, help="Step size of AdamW.")
@click.option("--embedding-size", type=int, help="Width of all vectors.")
@click.option("--seed", type=int, help="Same seed, same machine, same result.")
@click.option("--device", help='"cpu", "cuda" or "cuda:1".')
@click.option("--threads", type=int, help="CPU threads; 0: PyTorch's choice.")
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
    help="Any other setting; repeatable. emorec settings lists all of them.",
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to create for the run.  [default: runs/DATASET-PRESET-TIME]",
)
@click.option(
    "--resume",
    type=RUN,
    metavar="RUN",
    help="Resume a run that was stopped, with its own settings.",
)
@click.option(
    "--continue",
    "trained",
    type=RUN,
    metavar="RUN",
    help="Learn on from this run with the events of --events, in a run folder of its own.",
)
@click.option(
    "--events",
    help="New events for --continue: a file with the columns of the run's log, or the URL of a "
    "store, such as sqlite:///events.db.",
)
@click.option(
    "--tensorboard",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write curves of loss and validation into this folder, for TensorBoard; needs "
    "emorec[tensorboard].",
)
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@user_errors
def train(
    preset: str | None,
    dataset: str | None,
    data_dir: Path | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    run_dir: Path | None,
    resume: Path | None,
    trained: Path | None,
    events: str | None,
    tensorboard: Path | None,
    quiet: bool,
    **flags: Any,
) -> None:
    """Train a recommender and evaluate it on held-out events, beside tuned baselines.

    Without options, the flagship is trained on a generated log in about a minute. All results are
    written into one run folder, the argument of emorec-evaluate and emorec-recommend.

    \b
    Examples:
      emorec-train
      emorec-train --dataset ml-1m --preset diff-gat-thp-polarity
      emorec-train --dataset ratings.csv --set data.user_column=userId
      emorec-train --resume runs/ml-1m-emorec-20260102-030405
      emorec-train --continue runs/ml-1m-emorec-20260102-030405 --events today.csv
    """  # noqa: D301 (click's mark for text that is not to be wrapped)
    progress = not quiet and sys.stderr.isatty()
    flags = {name: value for name, value in flags.items() if value is not None}
    if (trained is None) != (events is None):
        raise click.UsageError("--continue RUN and --events FILE need each other")
    if trained is not None and events is not None:
        others = preset, dataset, data_dir, settings, config_file, resume
        if any(others) or set(flags) - {"epochs", "threads", "device"}:
            raise click.UsageError(
                "--continue uses the run's own settings; only --events, --run-dir, --epochs, "
                "--threads, --device and --tensorboard may be given with it"
            )
        if several_processes():
            raise click.UsageError("--continue runs in one process, without torchrun")
        _require_tensorboard(tensorboard)
        learn_on(trained, events, run_dir, flags, quiet, tensorboard)
        return
    if resume is not None:
        other_options = preset, dataset, data_dir, config_file, run_dir
        of_processes = [each for each in settings if each.startswith("training.shard_items=")]
        if any(other_options) or len(of_processes) < len(settings) or set(flags) - _MAY_CHANGE:
            raise click.UsageError(
                "--resume uses the run's own settings; only --epochs, --threads, --device, "
                "--tensorboard and --set training.shard_items may be given with it"
            )
        with quick_imports():
            from emorec.run_folder import existing_file, load_split, read_config
            from emorec.training.shares import shared_split

        existing_file(resume, "config.toml")  # otherwise the lock would create the folder
        config = _with_options(read_config(resume), flags, settings)
        with (
            all_processes(config) as world,
            only_writer(resume) if world.is_first else nullcontext(),
        ):
            split = load_split(resume) if world.is_first else None
            if split is not None and not len(split.test):
                raise click.UsageError(
                    f"{resume} has no test split: EmoRec.save wrote it, not emorec-train"
                )
            ready_machine(config)
            _require_tensorboard(tensorboard)
            click.echo(f"Resuming {resume}")
            split = shared_split(split, world)
            _train_or_stop(config, split, resume, progress, tensorboard, world)
        return
    config = load_config(preset or "emorec", config_file)
    if preset not in (None, config.preset):
        raise click.UsageError(
            f"--preset {preset} contradicts {config_file}, which has preset {config.preset}"
        )
    if dataset is not None:
        config = config.updated({"data": {"dataset": dataset}}, "--dataset")
    config = _with_options(config, flags, settings)
    if run_dir is None and several_processes():
        raise click.UsageError(
            "several processes need --run-dir DIR: by it they find what they have finished if "
            "torchrun starts them again"
        )
    with all_processes(config) as world:
        ready_machine(config)
        _require_tensorboard(tensorboard)
        with _run_folder(config, run_dir, world) as folder:
            if world.size > 1 and world.first_says(str(_is_begun(folder))) == "True":
                split = _begun(config, folder, world)
            else:
                split = _prepared(config, folder, data_dir, progress, world)
            _train_or_stop(config, split, folder, progress, tensorboard, world)


def _is_begun(folder: Path) -> bool:
    """Whether a run folder has what training needs to go on, and no results yet."""
    return (folder / "interactions.safetensors").exists() and not (folder / "results.json").exists()


def _begun(config: Config, folder: Path, world: World) -> Split:
    """The data of a run that several processes began and that torchrun has started again."""
    from emorec.run_folder import existing_file, load_split
    from emorec.training.shares import shared_split

    if world.is_first:
        if existing_file(folder, "config.toml").read_text("utf-8") != config.to_toml():
            raise click.UsageError(
                f"{folder} holds a run with other settings; choose another --run-dir, or use "
                f"--resume {folder}"
            )
    click.echo(f"Resuming {folder}")
    return shared_split(load_split(folder) if world.is_first else None, world)


@contextmanager
def _run_folder(
    config: Config, run_dir: Path | None, world: World | None = None, but_for: str = ""
) -> Iterator[Path]:
    """The folder of a new run, with this process, or the first of several, as its only writer.

    Several processes may find that they have begun the run before. A folder of the name ``but_for``
    may be there: a killed process had made it before it began the run.
    """
    folder = run_dir or _new_folder(config)
    if world is not None and not world.is_first:
        yield folder
        return
    try:
        with only_writer(folder):
            is_begun = several_processes() and _is_begun(folder)
            if not is_unused(folder, but_for) and not is_begun:
                can_resume = (folder / "interactions.safetensors").exists()
                raise click.UsageError(
                    f"{folder} exists and is not empty; choose another --run-dir"
                    + (f", or use --resume {folder}" if can_resume else "")
                )
            yield folder
    finally:
        if run_dir is None and not any(folder.iterdir()):
            folder.rmdir()  # there is nothing to resume


def learn_on(
    trained: Path,
    events: str,
    run_dir: Path | None,
    flags: dict[str, Any],
    quiet: bool = False,
    tensorboard: Path | None = None,
) -> tuple[Path, Comparison]:
    """Learns on from a run; the new run folder, and both models on the newest events."""
    progress = not quiet and sys.stderr.isatty()
    with quick_imports():
        from emorec.processes import ALONE
        from emorec.recommender import EmoRec
        from emorec.run_folder import START
        from emorec.updating import prepare_update

    whole = EmoRec.load(trained)
    before = whole.without_forgotten(events)
    if gone := whole.split.log.num_users - before.split.log.num_users:
        click.echo(f"{count(gone, 'user')} asked to be forgotten, and will not be in the new run.")
    config = _with_options(before.config_of_update(), flags)
    ready_machine(config)
    with _run_folder(config, run_dir, but_for=START) as folder:
        split, known = prepare_update(before, events, config, folder), before.split.log
        cold = f"; {split.dropped:,} more have no other event of their user or item"
        click.echo(
            f"{trained} has {count(len(known), 'event')}, the new run {len(split.log):,}: "
            f"{split.train.num_users - known.num_users:,} users and "
            f"{split.train.num_items - known.num_items:,} items are new. Of the new events "
            f"{len(split.valid):,} are the validation split and the newest {len(split.test):,} "
            f"the test split{cold if split.dropped else ''}.\n"
        )
        comparison = _train_or_stop(config, split, folder, progress, tensorboard, ALONE)
        assert comparison is not None
        return folder, comparison


def _require_tensorboard(folder: Path | None) -> None:
    """Fails before any work if curves are wanted and cannot be written."""
    if folder is not None:
        from emorec.training.tensorboard import require_tensorboard

        require_tensorboard()


def _train_or_stop(
    config: Config,
    split: Split,
    folder: Path,
    progress: bool,
    tensorboard: Path | None,
    world: World,
) -> Comparison | None:
    from emorec.building import backend_for

    if config.graph.conv != "none" and config.model.backend == "auto":
        names = {
            "dgl": "DGL",
            "torch": "PyTorch, because DGL cannot be imported (see emorec doctor)",
        }
        click.echo(f"Sums over the graph's edges: {names[backend_for(config)]}\n")
    try:
        return _train_and_evaluate(config, split, folder, progress, tensorboard, world)
    except (KeyboardInterrupt, BrokenPipeError) as stop:
        if not world.is_first:
            raise SystemExit(130) from None
        click.echo(
            f"\nStopped. All finished epochs are saved; resume with\n"
            f"  emorec-train --resume {shlex.quote(str(folder))}",
            err=True,
        )
        if isinstance(stop, BrokenPipeError):
            raise
        raise SystemExit(130) from None


def _train_and_evaluate(
    config: Config,
    split: Split,
    folder: Path,
    progress: bool,
    tensorboard: Path | None,
    world: World,
) -> Comparison | None:
    """Trains, and evaluates in the first process."""
    from emorec.experiment import train_run, write_results
    from emorec.run_report import name_of_path
    from emorec.training.tensorboard import TensorBoard
    from emorec.updating import evaluate_run

    date = f"{datetime.now(UTC).replace(tzinfo=None).isoformat(' ', 'minutes')} UTC"
    started = time.perf_counter()
    where = tensorboard if world.is_first else None
    with TensorBoard(where) if where is not None else nullcontext() as curves:

        def on_epoch(records: list[EpochRecord]) -> None:
            _print_epoch(records)
            if curves is not None:
                curves(records)

        recommender = train_run(config, split, folder, on_epoch, progress, world)
    world.leave()
    if not world.is_first:
        return None
    minutes, seconds = divmod(round(time.perf_counter() - started), 60)
    click.echo(f"Trained in {minutes} min {seconds} s.")
    if limit := _limit_that_decided(config, recommender.records):
        click.echo(
            f"Validation was still improving at training.epochs ({limit}); to continue: "
            f"emorec-train --resume {shlex.quote(str(folder))} --epochs {2 * limit}"
        )
    click.echo("\nTest split, evaluated once:")
    k = config.evaluation.k
    comparison = evaluate_run(recommender, folder, k, progress)
    write_results(
        folder,
        recommender,
        comparison,
        command=command_line("emorec-train", name_of_path),
        date=date,
    )
    print_results(comparison, k)
    user = shlex.quote(str(split.train.users.ids[0]))
    run = shlex.quote(str(folder))
    click.echo(
        f"\nThe run is in {folder}\n"
        f"  read      {folder / 'report.html'}\n"
        f"  recommend emorec-recommend {run} --user {user}\n"
        f"  evaluate  emorec-evaluate {run}"
    )
    return comparison


def _limit_that_decided(config: Config, records: list[EpochRecord]) -> int:
    """The limit of epochs if the limit, and not validation, ended training; else 0."""
    from emorec.training.parts import selected_score

    part, limit = records[-1].part, config.training.epochs
    own = [record.valid for record in records if record.valid and record.part == part]
    scores = [valid[selected_score(config, part)] for valid in own]
    return limit if len(scores) == limit and scores and scores[-1] == max(scores) else 0


def _with_options(config: Config, flags: dict[str, Any], settings: tuple[str, ...] = ()) -> Config:
    options = []
    for flag, value in flags.items():
        section = _SECTIONS.get(flag, "training")
        options.append((f"--{flag.replace('_', '-')}", {section: {flag: value}}))
    options += [(f"--set {setting}", parse_setting(setting)) for setting in settings]
    return config.with_options(options)


_SHOWN_OF_GRAPH = 10  # every so many of the graph's epochs has a line
_MAY_CHANGE = {"epochs", "threads", "device"}  # of a run that is resumed
_SECTIONS = {"backend": "model", "embedding_size": "model", "items": "data"}


def _new_folder(config: Config) -> Path:
    """Creates a folder of its own, even for runs that start within the same second."""
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


def _prepared(
    config: Config, folder: Path, data_dir: Path | None, progress: bool, world: World
) -> Split:
    from emorec.experiment import prepare
    from emorec.run_report import data_card

    split, report = prepare(config, folder, data_dir, progress, world)
    if not world.is_first:
        return split
    card = data_card(split)
    if report is not None:
        click.echo(str(report))
        left_out = split.report.left_out if split.report is not None else 0
        rare = report.rows_kept - len(split.log) - split.dropped - left_out
        if rare:
            click.echo(f"{rare:,} rows of rare users and items are dropped (k-core)")
    click.echo(
        f"{config.data.dataset}: {card['users']:,} users, {card['items']:,} items, "
        f"{card['interactions']:,} interactions, in these splits:"
    )
    click.echo(str(split.report))
    click.echo()
    return split


def _print_epoch(records: list[EpochRecord]) -> None:
    from emorec.training.checkpoint import is_refit

    record = records[-1]
    scores = "  ".join(f"{name} {value:.4f}" for name, value in record.valid.items())
    phase = "refit" if is_refit(record, records) else "epoch"
    if record.part == "graph":
        if record.epoch % _SHOWN_OF_GRAPH:  # they take a second or less
            return
        phase = f"graph {phase}"
    click.echo(
        f"{phase} {record.epoch:>3}  {record.seconds:6.1f} s  loss {record.loss:.4f}  {scores}"
    )
