"""emorec-recommend."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emorec.cli.common import RUN, how_to_run, load_run, user_errors
from emorec.texts import count, visible

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["recommend"]

_IDS = ("user", "item")


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option(
    "--user",
    "users",
    multiple=True,
    help="The user's own id; repeatable.",
)
@click.option("--all-users", is_flag=True, help="Every user of the run's log.")
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
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
    "--format",
    "output",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
)
@click.option(
    "--allow-seen/--no-allow-seen",
    default=None,
    help="Whether lists may hold items that their user has seen.  [default: the run's "
    "evaluation.seen; not, unless set]",
)
@how_to_run
@click.version_option(package_name="emorec")
@user_errors
def recommend(
    run: Path,
    users: tuple[str, ...],
    all_users: bool,
    events: Path | None,
    at: str | None,
    k: int,
    output: str,
    allow_seen: bool | None,
    backend: str | None,
    device: str | None,
    aversion: float | None,
) -> None:
    """Recommend items to users, from a trained RUN.

    Users without an event in the run or in --events, up to --at, get the most popular items; a note
    says so.

    The column score is the value that the model ranks by, comparable within one list only; it is
    empty for popular items. Ids are printed unchanged; in tables, and in csv on a terminal, control
    characters are escaped (\\u001b). A spreadsheet takes ids that begin with =, +, - or @ for
    formulas: import these columns of a csv file as text.

    \b
    Examples:
      emorec-recommend runs/ml-1m-emorec-20260102-030405 --user 42
      emorec-recommend RUN --user 42 --user somebody-new --events today.csv --aversion 4
      emorec-recommend RUN --user 42 --at 2026-11-29T10:00
      emorec-recommend RUN --all-users --format csv > lists.csv
    """  # noqa: D301
    if bool(users) == all_users:
        raise click.UsageError("give either --user ID or --all-users")
    recommender = load_run(run, backend, aversion, device)
    wanted = list(recommender.split.log.users.ids if all_users else users)
    lists = recommender.recommend(
        wanted, k, events, at=at, allow_seen=allow_seen, progress=sys.stderr.isatty()
    )
    served = set(lists["user"])
    without = [user for user in dict.fromkeys(wanted) if user not in served]
    if without:
        others = f" and {len(without) - 1:,} more have" if len(without) > 1 else " has"
        _note(f"user {without[0]!r}{others} seen every item; there is nothing left to recommend")
    stream = sys.stdout  # click.echo would drop what looks like a terminal's escape sequence
    if output == "json":
        # A missing score is null, and pandas' own writer rounds.
        rows = lists.astype(object).where(lists.notna(), None).to_dict("records")
        lines = json.dumps(rows, ensure_ascii=False, indent=2).split("\n")
        stream.write("".join(f"{visible(line)}\n" for line in lines))
    elif output == "csv":
        _warn_of_formulas(lists)
        if stream.isatty():
            lists = _visible_ids(lists)
        stream.write(_csv(lists))
    elif len(lists):
        table = _visible_ids(lists).to_string(
            index=False, float_format="{:.4f}".format, na_rep="-", justify="right"
        )
        stream.write(f"{table}\n")
    stream.flush()


def _csv(lists: pd.DataFrame) -> str:
    # Python's writer quotes a cell with the end of a line in it, but not one with half of "\r\n".
    has_return = any("\r" in str(value) for column in _IDS for value in lists[column].unique())
    if has_return:
        return lists.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return lists.to_csv(index=False, lineterminator="\n")


def _visible_ids(lists: pd.DataFrame) -> pd.DataFrame:
    shown = {c: lists[c].map(lambda v: visible(v) if isinstance(v, str) else v) for c in _IDS}
    return lists.assign(**shown)


def _warn_of_formulas(lists: pd.DataFrame) -> None:
    """Says so where a spreadsheet would take an id for a formula."""
    for column in _IDS:
        ids = lists[column].unique()
        risky = [each for each in ids if isinstance(each, str) and each[0] in "=+-@\t\r"]
        if risky:
            _note(
                f"{count(len(risky), 'id')} in column {column}, such as {risky[0]!r}, may be taken "
                "for formulas by a spreadsheet; import this column as text"
            )


def _note(text: str) -> None:
    click.secho(f"note: {text}", fg="yellow", err=True)
