"""emorec data: describes and converts logs, gets public data sets, writes a generated log."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from emorec.cli.common import quick_imports, user_errors
from emorec.cli.converting import convert, split
from emorec.cli.preparing import prepare
from emorec.data.registry import DATASETS

__all__ = ["data"]

_STARS = [5, 4, 3, 2]  # per kind of feedback, as the default rules read them


@click.group()
def data() -> None:
    """Describe, convert, split and prepare logs, and get public data sets."""


data.add_command(convert)
data.add_command(split)
data.add_command(prepare)


@data.command(context_settings={"max_content_width": 100})
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="data.KEY=VALUE",
    help="A setting that replaces a guess; repeatable.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write config.toml and rules.toml into.  [default: print them]",
)
@user_errors
def describe(file: Path, settings: tuple[str, ...], output: Path | None) -> None:
    """Describe the log in FILE (csv, tsv, jsonl or parquet) and guess the settings that read it.

    Every guess is a line that says what was taken and why. The settings are printed as TOML for
    emorec-train --config.

    \b
    Examples:
      emorec data describe log.csv
      emorec data describe log.csv --set data.item_column=Titel --output my-log
    """  # noqa: D301
    with quick_imports():
        from emorec.data.describe import describe

    found = describe(file, *settings)
    if output is None:
        click.echo(str(found))
    else:
        click.echo(found.summary)
    if found.problems:
        raise click.ClickException(
            "not everything could be guessed; set what is listed as not guessed, with --set"
        )
    if output is not None:
        config = found.write(output)
        click.echo(f"\nTrain with:\n  emorec-train --config {shlex.quote(str(config))}")


@data.command(name="list")
@user_errors
def list_() -> None:
    """List the public data sets, with the largest size of their download, citation and terms."""
    for dataset in DATASETS.values():
        size = f"at most {dataset.most // 10**6:,} MB" if dataset.url else "no download"
        click.echo(f"{dataset.name}: {dataset.title}; {size}")
        click.echo(f"  cite   {dataset.citation}")
        click.echo(f"  terms  {dataset.terms}")


@data.command()
@click.argument("name")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to download into.  [default: $EMOREC_DATA_DIR or ~/.cache/emorec]",
)
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
@user_errors
def fetch(name: str, data_dir: Path | None, quiet: bool) -> None:
    """Download the data set NAME, unless it is there, and show where it is and its terms."""
    with quick_imports():
        from emorec.data.datasets import find_dataset

    if name == "synthetic":
        raise click.UsageError("synthetic is generated; write it with: emorec data synthetic")
    path = find_dataset(name, data_dir, progress=not quiet)
    click.echo(f"{path}\nterms: {DATASETS[name].terms}\ncite: {DATASETS[name].citation}")


@data.command()
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The csv file to write.",
)
@click.option("--users", default=600, show_default=True, help="Number of users.")
@click.option("--items", default=400, show_default=True, help="Number of items.")
@click.option("--seed", default=0, show_default=True, help="Same seed, same log.")
@user_errors
def synthetic(output: Path, users: int, items: int, seed: int) -> None:
    """Write a generated log as csv, with the columns and stars that are read by default.

    With the default sizes and seed it is the data set synthetic; the four kinds of feedback are 5,
    4, 3 and 2 stars.
    """
    with quick_imports():
        import numpy as np
        import pandas as pd

        from emorec.data.synthetic import generate
        from emorec.storage.files import write_text

    log = generate(users, items, seed=seed).interactions
    columns = {
        "user_id": log.users.lookup(log.user),
        "item_id": log.items.lookup(log.item),
        "rating": np.array(_STARS)[log.feedback],
        "timestamp": log.time,
    }
    write_text(output, pd.DataFrame(columns).to_csv(index=False))
    click.echo(f"{output}: {len(log):,} events of {log.num_users:,} users")
