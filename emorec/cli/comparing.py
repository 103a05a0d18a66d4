"""emorec similar: items similar to items, and users similar to users."""

from __future__ import annotations

from pathlib import Path

import click

from emorec.cli.common import RUN, how_to_compute, load_run, user_errors, with_cold
from emorec.cli.output import check_output, output_options, write_frames

__all__ = ["similar"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option("--item", "items", multiple=True, help="The item's own id; repeatable.")
@click.option("--user", "users", multiple=True, help="The user's own id; repeatable.")
@click.option(
    "--by",
    type=click.Choice(["audience", "taste"]),
    default="audience",
    show_default=True,
    help="audience: items that the same people interact with, users who interact with similar "
    "items; needs graph.paths or graph.conv=sum for items, graph.conv=sum for users. taste: items "
    "that the same people like, users who like and dislike the same; needs model.polarity=item.",
)
@click.option(
    "-k", type=click.IntRange(1), default=10, show_default=True, help="Length of the lists."
)
@with_cold
@output_options
@how_to_compute
@user_errors
def similar(
    run: Path,
    items: tuple[str, ...],
    users: tuple[str, ...],
    by: str,
    k: int,
    cold: bool,
    output_format: str | None,
    output: Path | None,
    backend: str | None,
    device: str | None,
) -> None:
    """Find items similar to an item, or users similar to a user, from a trained RUN.

    The column similarity is a cosine, above 0 and at most 1. Between items by audience, a run with
    graph.paths counts it in the log instead: then it is comparable within one list only.

    \b
    Examples:
      emorec similar RUN --item 42
      emorec similar RUN --item 42 --item 7 --by taste -k 5
      emorec similar RUN --user anna --output similar.csv
    """  # noqa: D301
    if bool(users) == bool(items):
        raise click.UsageError("give either --item ID or --user ID")
    if users and cold:
        raise click.UsageError("--cold is for items; leave it out with --user")
    chosen = check_output(output_format, output)
    recommender = load_run(run, backend, None, device)
    log = recommender.split.log
    if items:
        found = recommender.similar_items(items, k, by=by, cold=cold)  # type: ignore[arg-type]
        ids = {"item": items, "similar": log.items.ids + recommender.cold_items}
    else:
        found = recommender.similar_users(users, k, by=by)  # type: ignore[arg-type]
        ids = {"user": users, "similar": log.users.ids}
    write_frames([found], chosen, output, ids)
