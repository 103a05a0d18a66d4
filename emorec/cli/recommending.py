"""emorec-recommend."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emorec.cli.common import RUN, how_to_run, id_files, load_run, user_errors, with_cold
from emorec.cli.output import check_output, note, output_options, write_frames
from emorec.cli.parted import process_of_several, write_parts

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["recommend"]

_BLOCK = 10_000  # users whose lists are in memory at a time
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option(
    "--user",
    "users",
    multiple=True,
    help="The user's own id; repeatable.",
)
@click.option(
    "--users",
    "users_file",
    type=_FILE,
    help="File of users: one id per line, or a table with the run's column of users.",
)
@click.option("--all-users", is_flag=True, help="Every user of the run's log.")
@click.option(
    "--candidates",
    type=_FILE,
    help="File of the only items that may be listed: one id per line for all users; or a csv, "
    "jsonl or parquet table with the run's columns of users and items (by default user_id and "
    "item_id) for candidates per user, with a row for each user asked for.",
)
@click.option(
    "--exclude",
    type=_FILE,
    help="File of items that may not be listed, in the same forms; users may be absent.",
)
@click.option(
    "--min-liked",
    type=click.FloatRange(0, 1),
    help="Least probability that a listed item is liked: the column liked.",
)
@click.option(
    "--diversity",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="From 0, the best items, to 1, items of the 10 k best that are far from those above them "
    "in the list.",
)
@click.option(
    "--events",
    type=_FILE,
    help="File of new events, of known or new users: csv, tsv, jsonl or parquet, with the columns, "
    "encoding, times and feedback rules of the run's data (by default user_id, item_id, rating and "
    "timestamp). The lists reflect them; nothing is trained.",
)
@click.option(
    "--at",
    help="Time of the request: an ISO date such as 2026-11-29T10:00, without a zone in UTC, or a "
    "number as in the log. Later events of the users are left out; models with "
    "sequence.request_time also use the time since the last event.  [default: the time of the "
    "newest event]",
)
@click.option(
    "-k", type=click.IntRange(1), default=10, show_default=True, help="Length of the lists."
)
@click.option(
    "--allow-seen/--no-allow-seen",
    default=None,
    help="Whether lists may hold items that their user has seen.  [default: the run's "
    "evaluation.seen; not, unless set]",
)
@with_cold
@output_options
@click.option(
    "--parts",
    type=click.IntRange(1, 100_000),
    help="Write --output as a folder of so many files, each with the lists of some users. A "
    "stopped command goes on with the files that are missing, and processes that torchrun started "
    "share the work.",
)
@how_to_run
@user_errors
def recommend(
    run: Path,
    users: tuple[str, ...],
    users_file: Path | None,
    all_users: bool,
    candidates: Path | None,
    exclude: Path | None,
    min_liked: float | None,
    diversity: float,
    events: Path | None,
    at: str | None,
    k: int,
    allow_seen: bool | None,
    cold: bool,
    output_format: str | None,
    output: Path | None,
    parts: int | None,
    backend: str | None,
    device: str | None,
    aversion: float | None,
) -> None:
    """Recommend items to users, from a trained RUN.

    Lists are written in blocks of users as they are made, except tables, so that those of millions
    of users need little memory. Users without an event in the run or in --events, up to --at, get
    the most popular items; a note says so.

    The column score is the value that the model ranks by, comparable within one list only; it is
    empty for popular items, and with --diversity it need not fall from rank to rank. The column
    title is there if the run has titles. Ids and titles are printed unchanged; in tables, and in
    csv on a terminal, control characters are escaped (\\u001b). A spreadsheet takes ids and titles
    that begin with =, +, - or @ for formulas: import these columns of a csv file as text.

    \b
    Examples:
      emorec-recommend runs/ml-1m-emorec-20260102-030405 --user 42
      emorec-recommend RUN --user 42 --user somebody-new --events today.csv --aversion 4
      emorec-recommend RUN --user 42 --at 2026-11-29T10:00
      emorec-recommend RUN --user 42 --candidates in-stock.txt --exclude sent.csv --min-liked 0.5
      emorec-recommend RUN --users newsletter.txt --diversity 0.3 --format csv > lists.csv
      emorec-recommend RUN --all-users --output lists.parquet
      torchrun --nproc-per-node 2 -m emorec recommend RUN --all-users --output lists \\
        --parts 64 --format parquet
      emorec-recommend RUN --user 42 --cold --candidates new-items.txt
    """  # noqa: D301
    if bool(users) + (users_file is not None) + all_users != 1:
        raise click.UsageError("give either --user ID, --users FILE or --all-users")
    if parts is None and process_of_several()[1] > 1:
        raise click.UsageError("several processes need --parts, of which each one writes some")
    if parts is not None and (output is None or output_format in (None, "table")):
        raise click.UsageError("--parts needs --output FOLDER, and --format csv, jsonl or parquet")
    chosen = check_output(output_format, output, is_folder=parts is not None)
    recommender = load_run(run, backend, aversion, device)
    files = id_files(recommender)
    if users_file is not None:
        wanted = files.users(users_file)
    else:
        wanted = list(recommender.split.log.users.ids if all_users else users)
    allowed = None if candidates is None else files.items(candidates)
    left_out = None if exclude is None else files.items(exclude)
    is_filtered = not (candidates is None and exclude is None and min_liked is None)

    def lists(some: list[Any]) -> Iterable[pd.DataFrame]:
        frames = recommender.recommend_in_blocks(
            some,
            k,
            events,
            block=_BLOCK,
            items=allowed,
            exclude=left_out,
            min_liked=min_liked,
            diversity=diversity,
            at=at,
            allow_seen=allow_seen,
            cold=cold,
            progress=sys.stderr.isatty(),
        )
        return _noting_empty(frames, some, is_filtered)

    texts = {"user": wanted, "item": recommender.split.log.items.ids + recommender.cold_items}
    if parts is None or output is None:
        write_frames(lists(wanted), chosen, output, texts)
        return
    options = {"k": k, "diversity": diversity, "min_liked": min_liked, "at": at, "cold": cold}
    options |= {"allow_seen": allow_seen, "aversion": aversion, "format": chosen}
    given = {"users": users_file, "candidates": candidates, "exclude": exclude, "events": events}
    write_parts(output, chosen, wanted, parts, run, options, given, lists, texts)


def _noting_empty(
    frames: Iterable[pd.DataFrame], users: list[Any], is_filtered: bool
) -> Iterator[pd.DataFrame]:
    """Passes blocks of lists on; says at the end for whom no item was left."""
    without: dict[Any, None] = {}
    asked = iter(users)
    for frame in frames:
        served = set(frame["user"])
        without.update((user, None) for user in islice(asked, _BLOCK) if user not in served)
        yield frame
    if without:
        first = f"user {next(iter(without))!r}"
        others = f" and {len(without) - 1:,} more" if len(without) > 1 else ""
        if is_filtered:
            note(f"no item is left for {first}{others}: seen, or left out by the filters")
        else:
            have = "have" if others else "has"
            note(f"{first}{others} {have} seen every item; there is nothing left to recommend")
