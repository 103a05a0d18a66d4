"""emorec data convert and emorec data split: write a log, or its splits, with default columns."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emorec.cli.common import quick_imports, user_errors
from emorec.cli.output import check_output, write_frames
from emorec.config import Config, ConfigError, load_config, parse_setting
from emorec.texts import count

if TYPE_CHECKING:
    from emorec.data.interactions import Interactions
    from emorec.data.splits import Split

__all__ = ["config_of_log", "convert", "split"]

_FORMATS = ("csv", "jsonl", "parquet")
_PARTS = ("train", "valid", "test")
_SPLIT = "split.json"


def _reading_options(sections: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the options of how the log is read; ``sections`` are those that --set takes."""

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in (
            click.option("--quiet", is_flag=True, help="Show no progress bar of a download."),
            click.option(
                "--data-dir",
                type=click.Path(file_okay=False, path_type=Path),
                help="Folder of the public data sets; missing ones are downloaded into it.  "
                "[default: $EMOREC_DATA_DIR or ~/.cache/emorec]",
            ),
            click.option(
                "--config",
                "config_file",
                type=click.Path(dir_okay=False, path_type=Path),
                help="TOML file of settings, such as that of emorec data describe.",
            ),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="SECTION.KEY=VALUE",
                help=f"A setting of {sections}; repeatable.",
            ),
        ):
            command = option(command)
        return command

    return add


@click.command(context_settings={"max_content_width": 100})
@click.argument("file")
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The csv, jsonl or parquet file to write.",
)
@_reading_options("the section data")
@user_errors
def convert(
    file: str,
    output: Path,
    settings: tuple[str, ...],
    config_file: Path | None,
    data_dir: Path | None,
    quiet: bool,
) -> None:
    """Convert the log in FILE, or the public data set of that name, to the default columns.

    The log is read as emorec-train reads it, with columns, times, feedback rules and k-core of the
    settings. The columns written are user_id, item_id, feedback (explicit_positive,
    implicit_positive, implicit_negative or explicit_negative) and timestamp (a number; absent if
    the log has no times). What was left out is counted.

    \b
    Examples:
      emorec data convert ratings.csv --set data.user_column=userId --output log.parquet
      emorec data convert log.csv --config my-log/config.toml --output log.jsonl
      emorec data convert ml-1m --data-dir data --output ml-1m.parquet
    """  # noqa: D301
    if output.suffix.lower().removeprefix(".") not in _FORMATS:
        raise click.UsageError(
            f"--output {output}: the suffix must be one of .{', .'.join(_FORMATS)}"
        )
    if output.exists() and Path(file).exists() and output.samefile(file):
        raise click.UsageError(f"--output {output} is the log itself; choose another file")
    chosen = check_output(None, output)
    log = _read(config_of_log(file, config_file, settings, {"data"}), data_dir, quiet).log
    _write(log, chosen, output)
    with quick_imports():
        from emorec.data.writing import settings_of

    known = " ".join(f"--set {each}" for each in settings_of(log))
    click.echo(
        f"{output}: {_sizes(log)}\n\n"
        f"Train with:\n  emorec-train --dataset {shlex.quote(str(output))} {known}"
    )


@click.command(context_settings={"max_content_width": 100})
@click.argument("file")
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write into: new, empty or that of an earlier split, which is replaced.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(_FORMATS),
    default="csv",
    show_default=True,
    help="Format of the splits.",
)
@_reading_options("the sections data and split")
@user_errors
def split(
    file: str,
    output: Path,
    output_format: str,
    settings: tuple[str, ...],
    config_file: Path | None,
    data_dir: Path | None,
    quiet: bool,
) -> None:
    """Split the log in FILE, or the public data set of that name, as emorec-train does.

    Writes train, valid and test, one file each with the columns of emorec data convert, and
    split.json with the rule, the sizes and the numbers of rows that are in none of them. The test
    split has the rows that emorec-train evaluates: those of users and items that occur before.

    \b
    Examples:
      emorec data split ratings.csv --output my-split --set split.n=5
      emorec data split ml-1m --data-dir data --output ml-1m-split --format parquet \\
          --set split.method=time --set split.quantile=0.8
    """  # noqa: D301
    check_output(output_format, output, is_folder=True)
    config = config_of_log(file, config_file, settings, {"data", "split"})
    if output.is_dir() and not _holds_split(output) and any(output.iterdir()):
        raise click.UsageError(
            f"--output {output}: the folder is not empty and holds no earlier split; choose another"
        )
    read = _read(config, data_dir, quiet)
    with quick_imports():
        from emorec.data.splits import split_interactions
        from emorec.storage.files import to_json, write_text
        from emorec.storage.folders import replace_files

    made = split_interactions(read.log, **config.split.rule)
    files = [f"{part}.{suffix}" for part in _PARTS for suffix in _FORMATS]
    with replace_files(output, [*files, _SPLIT]) as folder:
        for part in _PARTS:
            _write(getattr(made, part), output_format, folder / f"{part}.{output_format}")
        facts = _facts(config, made, read.left_out, output_format)
        write_text(folder / _SPLIT, to_json(facts, indent=2) + "\n")
    click.echo(f"{made.report}\n")
    for part in _PARTS:
        click.echo(f"{output / part}.{output_format}: {_sizes(getattr(made, part))}")
    click.echo(output / _SPLIT)


def _holds_split(folder: Path) -> bool:
    """Whether a folder has a split, or one whose last files were never moved into place."""
    with quick_imports():
        from emorec.storage.folders import read_manifest

    return (folder / _SPLIT).exists() or _SPLIT in (read_manifest(folder) or {})


def config_of_log(
    file: str, config_file: Path | None, settings: tuple[str, ...], sections: set[str]
) -> Config:
    """The settings; only those of ``sections`` may be given one by one."""
    options = [(f"--set {each}", parse_setting(each)) for each in settings]
    for name, values in options:
        if not set(values) <= sections:
            allowed = " and ".join(sorted(sections))
            raise ConfigError(f"{name}: only settings of {allowed} can be given here")
        if "dataset" in values.get("data", {}):
            raise ConfigError(f"{name}: give the file as the argument instead")
    config = load_config("emorec", config_file)
    return config.updated({"data": {"dataset": file}}, file).with_options(options)


@dataclass(frozen=True)
class _Read:
    """A log, and the numbers of rows that reading left out, by reason."""

    log: Interactions
    left_out: dict[str, int]


def _read(config: Config, data_dir: Path | None, quiet: bool) -> _Read:
    """Reads the log as emorec-train does, and says what was left out."""
    with quick_imports():
        from emorec.experiment import load_data

    log, report = load_data(config.data, data_dir, progress=not quiet and sys.stderr.isatty())
    if report is None:
        return _Read(log, {})
    click.echo(str(report))
    rare = report.rows_kept - len(log)
    if rare:
        click.echo(f"{rare:,} rows of rare users and items are dropped (k-core)")
    click.echo()
    return _Read(log, report.dropped | {"rare user or item": rare})


def _write(log: Interactions, output_format: str, path: Path) -> None:
    from emorec.data.writing import ID_COLUMNS, frames_of

    ids = dict(zip(ID_COLUMNS, (log.users.ids, log.items.ids), strict=True))
    write_frames(frames_of(log), output_format, path, ids)


def _sizes(log: Interactions) -> str:
    import numpy as np

    users, items = len(np.unique(log.user)), len(np.unique(log.item))
    return f"{count(len(log), 'event')}, {count(users, 'user')}, {count(items, 'item')}"


def _rule_names(config: Config) -> tuple[str, ...]:
    """The settings of the section split that the method uses."""
    if config.split.method == "leave_last_out":
        return ("method", "n")
    if config.split.method == "random":
        return ("method", "quantile")
    return ("method", "days" if config.split.days else "quantile", "gap")


def _facts(
    config: Config, made: Split, left_out: dict[str, int], output_format: str
) -> dict[str, object]:
    """What split.json holds."""
    from emorec.data.split_report import PartSummary
    from emorec.data.writing import settings_of

    parts = {}
    for name in _PARTS:
        part = PartSummary.of(getattr(made, name))
        parts[name] = {
            "file": f"{name}.{output_format}",
            "rows": part.rows,
            "users": part.users,
            "items": part.items,
            "feedback": {kind.label: rows for kind, rows in part.feedback.items()},
        }
    in_gaps = made.report.left_out if made.report is not None else 0
    return {
        "source": config.data.dataset,
        "rule": {name: config.split.rule[name] for name in _rule_names(config)},
        "settings": list(settings_of(made.train)),
        "splits": parts,
        "left_out": left_out
        | {"gap before a cut": in_gaps, "test row of a new user or item": made.dropped},
    }
