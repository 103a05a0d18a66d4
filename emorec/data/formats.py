"""Known formats: MovieLens, Amazon, KuaiRand, Yambda, Goodreads and RecBole's atomic files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from emorec.data.interactions import Interactions
from emorec.data.readers import (
    ReadReport,
    RulesLike,
    interactions_of_table,
    load_rules,
)
from emorec.data.table_files import read_table
from emorec.data.tables import Table, concat_tables

__all__ = [
    "read_amazon",
    "read_goodreads",
    "read_kuairand",
    "read_movielens",
    "read_movielens_items",
    "read_recbole",
    "read_yambda",
]

_MOVIELENS_COLUMNS = ["user_id", "item_id", "rating", "timestamp"]
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
_NO_GENRES = "(no genres listed)"
# The files of Yambda that hold one type of event each, and how the file of all of them calls it.
_YAMBDA_EVENTS = {
    "listens.parquet": "listen",
    "likes.parquet": "like",
    "dislikes.parquet": "dislike",
    "unlikes.parquet": "unlike",
    "undislikes.parquet": "undislike",
}


def read_movielens(
    path: str | Path, *, member: str | None = None, rules: RulesLike = "ratings"
) -> tuple[Interactions, ReadReport]:
    """Ratings of MovieLens: ``ratings.dat`` (1M, 10M), ``u.data`` (100K) or ``ratings.csv``.

    Args:
        path: The file, or the official zip archive.
        member: The file inside the archive, such as "ml-1m/ratings.dat".
        rules: Feedback rules over the column ``rating``.
    """
    name = (member or str(path)).lower()
    if name.endswith((".csv", ".csv.gz")):
        user, item = "userId", "movieId"
        table = read_table(path, member=member, text_columns=(user, item))
    else:
        user, item = "user_id", "item_id"
        table = read_table(
            path,
            member=member,
            names=_MOVIELENS_COLUMNS,
            delimiter="\t" if name.endswith(".data") else "::",
            text_columns=(user, item),
        )
    return interactions_of_table(
        table, user=user, item=item, rules=load_rules(rules), time_unit="s"
    )


def read_movielens_items(path: str | Path, *, member: str | None = None) -> pd.DataFrame:
    """Items of MovieLens: ``movies.dat`` (1M), ``u.item`` (100K) or ``movies.csv``.

    Args:
        path: The file, or the official zip archive.
        member: The file inside the archive, such as "ml-1m/movies.dat".

    Returns:
        Columns ``item_id, title, genres, year``: genres separated by ``|``, missing where there are
        none; the year at the end of the title, missing where there is none.
    """
    name = (member or str(path)).lower()
    columns = ["item_id", "title", "genres"]
    if name.endswith(".csv"):
        own = ("movieId", "title", "genres")
        table = read_table(path, member=member, text_columns=own, columns=own)
        frame = table.frame[list(own)].set_axis(columns, axis=1)
    else:
        is_100k = name.endswith(".item")
        names = [*columns[:2], "date", "video", "url", *_GENRES_100K] if is_100k else columns
        frame = read_table(
            path,
            member=member,
            file_format="csv",
            names=names,
            delimiter="|" if is_100k else "::",
            text_columns=columns,
            encoding="latin-1",
        ).frame
        if is_100k:
            has_genre = frame[list(_GENRES_100K)].to_numpy() == 1
            genres = ["|".join(np.array(_GENRES_100K)[each]) for each in has_genre]
            frame = frame[columns[:2]].assign(genres=genres)
    frame["genres"] = frame["genres"].where(~frame["genres"].isin(("", _NO_GENRES)))
    year = frame["title"].str.extract(r"\((\d{4})\)\s*$", expand=False)
    return frame.assign(year=pd.to_numeric(year))


def read_amazon(
    path: str | Path, *, rules: RulesLike = "ratings"
) -> tuple[Interactions, ReadReport]:
    """Amazon reviews, one JSON object per line with reviewerID, asin, overall, unixReviewTime."""
    columns = ("reviewerID", "asin", "overall", "unixReviewTime")
    return interactions_of_table(
        read_table(path, file_format="jsonl", columns=columns),
        user="reviewerID",
        item="asin",
        rating="overall",
        time="unixReviewTime",
        rules=load_rules(rules),
        time_unit="s",
    )


def read_goodreads(
    path: str | Path, *, rules: RulesLike = "ratings"
) -> tuple[Interactions, ReadReport]:
    """Goodreads reviews, one JSON object per line with user_id, book_id, rating, date_added.

    A rating of 0 means "not rated" there; the shipped rules drop it.
    """
    columns = ("user_id", "book_id", "rating", "date_added")
    return interactions_of_table(
        read_table(path, file_format="jsonl", columns=columns),
        item="book_id",
        time="date_added",
        rules=load_rules(rules),
        time_format="%a %b %d %H:%M:%S %z %Y",
    )


def read_kuairand(
    paths: str | Path | Sequence[str | Path],
    *,
    members: Sequence[str] | None = None,
    rules: RulesLike = "kuairand",
) -> tuple[Interactions, ReadReport]:
    """Logs of KuaiRand, standard or random, one after the other; times in milliseconds.

    Args:
        paths: One file or several, or the official tar archive.
        members: The files inside the archive.
        rules: Feedback rules over the columns of the log.
    """
    chosen = load_rules(rules)
    columns = ("user_id", "video_id", "time_ms", *chosen.columns)

    def read(path: str | Path, member: str | None = None) -> Table:
        return read_table(
            path, member=member, text_columns=("user_id", "video_id"), columns=columns
        )

    if isinstance(paths, (str, Path)):
        tables = [read(paths, member) for member in members or (None,)]
    else:
        tables = [read(path) for path in paths]
    return interactions_of_table(
        tables[0] if len(tables) == 1 else concat_tables(tables),
        item="video_id",
        time="time_ms",
        rules=chosen,
        time_unit="ms",
    )


def read_yambda(
    path: str | Path, *, rules: RulesLike = "yambda"
) -> tuple[Interactions, ReadReport]:
    """Events of Yambda in the flat format: ``multi_event.parquet``, or the files of one type each.

    Times are seconds since the start of the log, in steps of five; the log's calendar is not
    published.

    Args:
        path: ``multi_event.parquet``; or ``listens.parquet``, which is read with those of
            ``likes``, ``dislikes``, ``unlikes`` and ``undislikes.parquet`` that are in its folder.
            Their rows get a column ``event_type`` as in the file of all events.
        rules: Feedback rules over the columns of ``multi_event.parquet``.
    """
    path, chosen = Path(path), load_rules(rules)
    columns = ("uid", "item_id", "timestamp", *chosen.columns)

    def read(path: Path) -> Table:
        return read_table(path, columns=columns)

    def read_type(path: Path) -> Table:
        table, types = read(path), pd.CategoricalDtype(list(_YAMBDA_EVENTS.values()))
        event_type = pd.Series(_YAMBDA_EVENTS[path.name], table.frame.index, dtype=types)
        return replace(table, frame=table.frame.assign(event_type=event_type))

    if path.name == "listens.parquet":
        paths = [path.with_name(name) for name in _YAMBDA_EVENTS]
        table = concat_tables([read_type(each) for each in paths if each.is_file()])
    else:
        table = read(path)
    return interactions_of_table(table, user="uid", rules=chosen, time_unit="s")


def read_recbole(
    path: str | Path, *, rules: RulesLike | None = None
) -> tuple[Interactions, ReadReport]:
    """RecBole's ``.inter``: tab-separated, with the type behind each name (``user_id:token``)."""
    table = read_table(
        path,
        file_format="csv",
        delimiter="\t",
        text_columns=("user_id:token", "item_id:token"),
    )
    names = [name.partition(":")[0] for name in table.names]
    bare = replace(table, frame=table.frame.set_axis(names, axis=1), names=tuple(names))
    return interactions_of_table(
        bare,
        rules=load_rules("ratings" if rules is None else rules),
        are_stars=rules is not None,
    )
