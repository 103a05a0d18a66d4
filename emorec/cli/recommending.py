"""emorec-recommend."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from emorec.cli.common import RUN, how_to_run, load_run, user_errors

__all__ = ["recommend"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option(
    "--user",
    "users",
    multiple=True,
    help="The user's own id; may be given several times.",
)
@click.option("--all-users", is_flag=True, help="Every user of the run's log.")
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
@how_to_run
@user_errors
def recommend(
    run: Path,
    users: tuple[str, ...],
    all_users: bool,
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
      emorec-recommend RUN --all-users --format csv > lists.csv
    """  # noqa: D301
    if bool(users) == all_users:
        raise click.UsageError("say whom the lists are for: either --user ID or --all-users")
    recommender = load_run(run, backend, aversion, device)
    wanted = list(recommender.split.log.users.ids if all_users else users)
    lists = recommender.recommend(wanted, k, events, progress=sys.stderr.isatty())
    served = set(lists["user"])
    without = [user for user in dict.fromkeys(wanted) if user not in served]
    if without:
        others = f" and {len(without) - 1:,} more have" if len(without) > 1 else " has"
        click.secho(
            f"note: user {without[0]!r}{others} met every item; there is nothing left to recommend",
            fg="yellow",
            err=True,
        )
    if output == "json":
        click.echo(lists.to_json(orient="records", force_ascii=False, indent=2))
    elif output == "csv":
        click.echo(lists.to_csv(index=False), nl=False)
    elif len(lists):
        click.echo(lists.to_string(index=False, float_format="{:.4f}".format))
