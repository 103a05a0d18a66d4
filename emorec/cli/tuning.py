"""emorec tune: trials of settings, judged on the validation split."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import click

from emorec.cli.common import quick_imports, ready_machine, user_errors
from emorec.config import Config, load_config, parse_setting, preset_names
from emorec.storage.files import read_text

__all__ = ["tune"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"max_content_width": 100})
@click.option(
    "--study",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the study. One that is there goes on, with the same options.",
)
@click.option("--dataset", help="Name of a data set, or a file.  [default: synthetic]")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Folder of the data sets.  [default: $EMOREC_DATA_DIR or ~/.cache/emorec]",
)
@click.option("--preset", type=click.Choice(preset_names()), metavar="NAME", help="Model.")
@click.option("--config", "config_file", type=_FILE, help="TOML file of settings.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Any setting that all trials share; repeatable.",
)
@click.option(
    "--space",
    type=_FILE,
    help="TOML file of the space: for each setting a list of values, or a range {low = , high = } "
    "with log = true if it is to be searched by its logarithm.  [default: see --show-space]",
)
@click.option("--show-space", is_flag=True, help="Print the default space, and end.")
@click.option(
    "--trials", type=click.IntRange(min=1), default=30, show_default=True, help="Trials in all."
)
@click.option(
    "--goal",
    type=click.Choice(["likes", "front"]),
    default="likes",
    show_default=True,
    help="likes: the highest NDCG of likes; front: the trials that no other one beats in both NDCG "
    "of likes and disliked share.",
)
@click.option(
    "--most-disliked",
    type=click.FloatRange(0, 1),
    default=1.0,
    help="With the goal likes: the highest disliked share that the best trial may have.",
)
@click.option("--quiet", is_flag=True, help="Show no progress bars.")
@user_errors
def tune(
    folder: Path,
    dataset: str | None,
    data_dir: Path | None,
    preset: str | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    space: Path | None,
    show_space: bool,
    trials: int,
    goal: str,
    most_disliked: float,
    quiet: bool,
) -> None:
    """Search settings by trials on the validation split; the test split is not used.

    Each trial is a training. Those behind the median of the others are stopped early (with --goal
    front none is). The study's folder holds a table and a plot of the trials and best.toml, all
    settings of the best one. Ctrl-C loses no finished trial: the same command goes on. Needs
    Optuna: pip install "emorec[tune]".

    \b
    Examples:
      emorec tune --study my-study --dataset ratings.csv --trials 30
      emorec tune --study my-study --dataset ml-1m --space space.toml --most-disliked 0.3
      emorec-train --dataset ratings.csv --config my-study/best.toml
    """  # noqa: D301
    with quick_imports():
        from emorec.study import DEFAULT_SPACE, Goal, Study

    if show_space:
        click.echo(DEFAULT_SPACE, nl=False)
        return
    config = _config(preset, config_file, dataset, settings)
    ready_machine(config)
    progress = not quiet and sys.stderr.isatty()
    split = _split_of(config, data_dir, progress)  # fails before there is a folder
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="optuna")  # of interfaces that are new in it
        study = Study(
            folder,
            config,
            DEFAULT_SPACE if space is None else read_text(space),
            Goal("front" if goal == "front" else "likes", most_disliked),
            source="the space" if space is None else str(space),
        )
        _run(study, split, trials, progress)
    _show(study, config)


def _config(
    preset: str | None, file: Path | None, dataset: str | None, settings: tuple[str, ...]
) -> Config:
    config = load_config(preset or "emorec", file)
    if preset not in (None, config.preset):
        raise click.UsageError(
            f"--preset {preset} contradicts {file}, which has preset {config.preset}"
        )
    if dataset is not None:
        config = config.updated({"data": {"dataset": dataset}}, "--dataset")
    return config.with_options([(f"--set {each}", parse_setting(each)) for each in settings])


def _split_of(config: Config, data_dir: Path | None, progress: bool) -> Any:
    from emorec.data.splits import split_interactions
    from emorec.experiment import load_data

    log, _ = load_data(config.data, data_dir, progress)
    return split_interactions(log, **config.split.rule)


def _run(study: Any, split: Any, trials: int, progress: bool) -> None:
    there = len(study.trials())
    if there:
        click.echo(f"{study.folder}: {there} of {trials} trials are there already")
    try:
        study.run(split, trials, _print_trial, progress)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. {len(study.trials())} trials are kept in {study.folder}; the same command "
            "goes on.",
            err=True,
        )
        raise SystemExit(130) from None


def _print_trial(row: dict[str, Any]) -> None:
    shown = {
        name: value
        for name, value in row.items()
        if "." in name and not (isinstance(value, float) and value != value)
    }
    values = "  ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in shown.items()
    )
    outcome = row["state"]
    if outcome != "failed":
        outcome = (
            f"{'best so far' if row['is_best'] else outcome:<13}  NDCG of likes "
            f"{row['ndcg_likes']:.4f}  disliked share {row['disliked_share']:.3f}  "
            f"{row['seconds']:6.1f} s"
        )
    else:
        outcome = f"{outcome}: {row['note']}"
    click.echo(f"trial {row['trial']:>3}  {outcome}  {values}")


def _show(study: Any, config: Config) -> None:
    rows = study.trials()
    counts = rows["state"].value_counts()
    total = ", ".join(f"{number} {state}" for state, number in counts.items())
    where = f"Table: {study.folder / 'trials.csv'}"
    if "finished" in counts:
        where = f"Table and plot: {study.folder / 'trials.csv'}, {study.folder / 'trials.svg'}"
    click.echo(f"\n{len(rows)} trials: {total}. {where}")
    best = rows[rows["is_best"]]
    if not len(best):
        limit = study.goal.most_disliked
        why = (
            f"no finished trial has a disliked share of at most {limit:g}"
            if limit < 1
            else ("no trial finished")
        )
        click.echo(f"No best trial: {why}.")
        return
    names = ["trial", "ndcg_likes", "ndcg", "disliked_share"]
    names += [name for name in rows.columns if "." in name]
    best = best.sort_values("ndcg_likes", ascending=False)[names]
    click.echo(
        f"\nBest on validation:\n{best.to_string(index=False, float_format='{:.4g}'.format)}"
    )
    data = shlex.quote(config.data.dataset)
    file = shlex.quote(str(study.folder / "best.toml"))
    click.echo(
        f"\nTrain it, and evaluate it on the test split:\n  emorec-train --dataset {data} "
        f"--config {file}"
    )
