"""The commands: emorec-train, emorec-evaluate, emorec-recommend, and those of emorec itself.

Modules of commands import what computes within functions, so that --help and wrong options are
answered at once: PyTorch and pandas take over a second.
"""

from __future__ import annotations

import click

from emorec.cli.common import user_errors
from emorec.cli.comparing import similar
from emorec.cli.data import data
from emorec.cli.evaluating import evaluate
from emorec.cli.explaining import explain
from emorec.cli.exporting import export
from emorec.cli.recommending import recommend
from emorec.cli.retraining import retrain
from emorec.cli.scoring import score
from emorec.cli.serving import serve
from emorec.cli.training import train
from emorec.cli.tuning import tune
from emorec.config import load_config, preset_names

__all__ = [
    "data",
    "evaluate",
    "export",
    "main",
    "recommend",
    "retrain",
    "score",
    "serve",
    "similar",
    "train",
    "tune",
]


@click.group()
def main() -> None:
    """EmoRec: recommendations for people who both like and dislike things."""


@main.command()
@click.option("--build", is_flag=True, help="Compile the operators into the build cache.")
@user_errors
def doctor(build: bool) -> None:
    """Show which parts work on this machine, and how to fix those that do not."""
    from emorec.cli.doctor import report
    from emorec.ops.build import build_in_cache

    if build:
        click.echo("Compiling the operators; this takes a minute or two.")
        try:
            build_in_cache()
        except RuntimeError as error:  # of the compiler, with its output
            raise click.ClickException(str(error)) from error
    click.echo(report())


@main.command()
@click.argument("preset", type=click.Choice(preset_names()), default="emorec")
@user_errors
def settings(preset: str) -> None:
    """Print all settings of PRESET with their meaning, as TOML for --config or --set."""
    click.echo(load_config(preset).to_toml(), nl=False)


def _add_version(command: click.Command) -> None:
    """Adds --version to a command and, if it is a group, to its commands."""
    click.version_option(package_name="emorec")(command)
    if isinstance(command, click.Group):
        for each in command.commands.values():
            _add_version(each)


for _each in (
    train,
    evaluate,
    recommend,
    score,
    similar,
    explain,
    tune,
    export,
    serve,
    retrain,
    data,
):
    main.add_command(_each)
_add_version(main)
