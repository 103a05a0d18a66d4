"""emorec data prepare: logs larger than memory, sorted and parted for training."""

from __future__ import annotations

import glob
import shlex
import sys
from pathlib import Path

import click
from tqdm import tqdm

from emorec.cli.common import quick_imports, user_errors
from emorec.cli.converting import config_of_log

__all__ = ["prepare"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the prepared log; what is there of an earlier one is replaced whole.",
)
@click.option(
    "--parts",
    default=64,
    show_default=True,
    type=click.IntRange(1, 4096),
    help="Parts of the log, by user, which are sorted one after the other.",
)
@click.option(
    "--memory",
    "memory_gb",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0.2),
    help="Memory for sorting, in GB; reading takes about 1 GB more. The rest is on disk.",
)
@click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(1, 1024), help="For sorting."
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file of settings, such as that of emorec data describe.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="data.KEY=VALUE",
    help="A setting of the section data; repeatable.",
)
@click.option("--quiet", is_flag=True, help="Show no progress bar.")
@user_errors
def prepare(
    files: tuple[str, ...],
    output: Path,
    parts: int,
    memory_gb: float,
    threads: int,
    config_file: Path | None,
    settings: tuple[str, ...],
    quiet: bool,
) -> None:
    """Prepare a log of FILES (csv, tsv, jsonl or parquet) that need not fit into memory.

    The files are read one after the other, as emorec-train reads one: with the columns, times and
    feedback rules of the settings. Needs the extra large (DuckDB and pyarrow). A command that was
    stopped goes on with the files that it had not read yet.

    \b
    Examples:
      emorec data prepare 'logs/*.csv.gz' --output log
      emorec data prepare a.parquet b.parquet --set data.user_column=userId --output log --parts 8
      emorec-train --dataset log
    """  # noqa: D301
    config = config_of_log(files[0], config_file, settings, {"data"})
    sources = [path for name in files for path in (sorted(glob.glob(name)) or [name])]
    with quick_imports():
        from emorec.data.preparing import prepare_log

    shows = not quiet and sys.stderr.isatty()
    with tqdm(desc="reading", unit=" rows", unit_scale=True, disable=not shows) as bar:
        about = prepare_log(
            sources,
            output,
            **config.data.reading,
            rules=config.data.rules or None,
            parts=parts,
            memory_gb=memory_gb,
            threads=threads,
            on_rows=bar.update,
        )
    click.echo(
        f"{about.report}\n\nTrain with:\n  emorec-train --dataset {shlex.quote(str(output))}"
    )
