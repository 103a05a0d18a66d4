"""emorec-recommend."""

from __future__ import annotations

from pathlib import Path

import click

from emorec.cli.common import RUN, aversion_option, device_option, load_run, user_errors

__all__ = ["recommend"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
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
@device_option
@aversion_option
@user_errors
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
    recommender = load_run(run, backend, aversion, device)
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
