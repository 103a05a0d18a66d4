"""emorec score: scores of given pairs of users and items."""

from __future__ import annotations

from pathlib import Path

import click

from emorec.cli.common import RUN, how_to_run, id_files, load_run, user_errors, with_cold
from emorec.cli.output import check_output, output_options, write_frames

__all__ = ["score"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option(
    "--pairs",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of pairs: csv, tsv, jsonl or parquet, with the run's columns of users and items (by "
    "default user_id and item_id); other columns are ignored.",
)
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of new events, of known or new users, as for emorec-recommend.",
)
@click.option(
    "--at",
    help="Time of the request, as for emorec-recommend.  [default: the time of the newest event]",
)
@with_cold
@output_options
@how_to_run
@user_errors
def score(
    run: Path,
    pairs: Path,
    events: Path | None,
    at: str | None,
    cold: bool,
    output_format: str | None,
    output: Path | None,
    backend: str | None,
    device: str | None,
    aversion: float | None,
) -> None:
    """Score given pairs of users and items, from a trained RUN.

    The pairs keep their order. The column score is the value that the model ranks by, comparable
    between items of one user only; liked is the probability that the user's feedback on the item is
    positive, comparable between all pairs. Users without an event in the run or in --events, up to
    --at, have no score, and any user's probability; unknown items have neither. A note counts them.

    \b
    Examples:
      emorec score RUN --pairs pairs.csv
      emorec score RUN --pairs pairs.csv --events today.csv --format jsonl
      emorec score RUN --pairs pairs.parquet --output scores.parquet
    """  # noqa: D301
    chosen = check_output(output_format, output)
    recommender = load_run(run, backend, aversion, device)
    table = id_files(recommender).pairs(pairs)
    scores = recommender.score(table, events, at=at, cold=cold)
    write_frames([scores], chosen, output, {"user": scores["user"], "item": scores["item"]})
