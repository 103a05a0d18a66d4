"""emorec explain."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from emorec.cli.common import RUN, how_to_run, load_run, user_errors, with_cold
from emorec.texts import visible

__all__ = ["explain"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option("--user", required=True, help="The user's own id.")
@click.option(
    "--item", "items", multiple=True, help="The item's own id; repeatable.  [default: the list]"
)
@click.option(
    "-k", type=click.IntRange(1), default=3, show_default=True, help="Items, without --item."
)
@click.option(
    "--events",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of new events, as for emorec-recommend.",
)
@click.option("--at", help="Time of the request, as for emorec-recommend.")
@click.option(
    "--format",
    "output",
    type=click.Choice(["text", "json", "csv"]),
    default="text",
    show_default=True,
    help="Words with the largest effects, or all events of each item.",
)
@with_cold
@how_to_run
@user_errors
def explain(
    run: Path,
    user: str,
    items: tuple[str, ...],
    k: int,
    events: Path | None,
    at: str | None,
    cold: bool,
    output: str,
    backend: str | None,
    device: str | None,
    aversion: float | None,
) -> None:
    """Explain why items are on a user's list, from a trained RUN.

    A score is the sum of the terms of the ranking. An event's effect is how much the score falls
    when the event is left out of the user's history, all else equal; effects need not sum to the
    score. The newest 200 events are left out one at a time.

    \b
    Examples:
      emorec explain RUN --user 42
      emorec explain RUN --user 42 --item 50 --item 172
      emorec explain RUN --user 42 --item 50 --format csv > effects.csv
    """  # noqa: D301
    recommender = load_run(run, backend, aversion, device)
    found = recommender.explain(user, items or None, k, events, at=at, cold=cold)
    stream = sys.stdout
    if output == "text":
        for number, each in enumerate(found):
            lines = "\n".join(visible(line) for line in str(each).split("\n"))
            stream.write(("\n" if number else "") + f"{lines}\n")
    elif output == "json":
        rows = [
            {
                "user": each.user,
                "item": each.item,
                **({"title": each.title} if recommender.titles else {}),
                "score": each.score,
                "terms": each.terms,
                "liked": each.liked,
                "events": each.events.to_dict("records"),
            }
            for each in found
        ]
        stream.write(json.dumps(rows, ensure_ascii=False, indent=2, default=str) + "\n")
    else:
        import pandas as pd

        own = {"item": "event_item", "title": "event_title"}
        frames = []
        for each in found:
            frame = each.events.rename(columns=own)
            if "event_title" in frame:
                frame.insert(0, "title", each.title)
            frame.insert(0, "item", each.item)
            frames.append(frame)
        table = pd.concat(frames)
        stream.write(table.to_csv(index=False, lineterminator="\n"))
    stream.flush()
