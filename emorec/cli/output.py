"""Writes the frames of commands, block by block: to the terminal, or to a file."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from emorec.storage.files import atomic_path
from emorec.texts import count, visible

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_output", "note", "output_options", "write_frames"]

_SUFFIXES = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".parquet": "parquet"}
_TITLES = ("title", "similar_title")  # columns of text from a user's file, as ids are
_FORMATS = ("table", *_SUFFIXES.values())


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Adds --format and --output; `check_output` puts them together."""
    for option in (
        click.option(
            "--output",
            "-o",
            type=click.Path(path_type=Path),
            help="Write to this file instead of the terminal. It is replaced when all is written; "
            "if something goes wrong, what was there before stays.",
        ),
        click.option(
            "--format",
            "output_format",
            type=click.Choice(_FORMATS),
            help="jsonl is one JSON object per line; parquet needs --output.  [default: by the "
            "suffix of --output, else table]",
        ),
    ):
        command = option(command)
    return command


def check_output(output_format: str | None, output: Path | None, *, is_folder: bool = False) -> str:
    """The format to write, before anything is computed.

    Args:
        output_format: What --format says.
        output: What --output says.
        is_folder: Whether files are written into the folder ``output``; else it is a file.

    Raises:
        click.UsageError: If parquet has no file, the file's suffix names no format, or ``output``
            is a folder and should be a file, or the other way round.
        ImportError: If parquet is asked for and PyArrow is missing.
    """
    if output is not None and output.exists() and output.is_dir() != is_folder:
        found, wanted = ("file", "folder") if is_folder else ("folder", "file")
        raise click.UsageError(f"--output {output} is a {found}; give a {wanted}")
    if output_format is None and output is not None:
        output_format = _SUFFIXES.get(output.suffix.lower())
        if output_format is None:
            raise click.UsageError(
                f"--output {output}: the suffix names no format; give --format, one of "
                f"{', '.join(_FORMATS)}"
            )
    if output_format == "parquet":
        if output is None:
            raise click.UsageError("--format parquet needs --output FILE")
        _pyarrow()
    return output_format or "table"


def write_frames(
    frames: Iterable[pd.DataFrame],
    output_format: str,
    output: Path | None,
    ids: Mapping[str, Iterable[Any]],
) -> None:
    """Writes frames of the same columns under each other.

    Args:
        frames: At least one.
        output_format: What `check_output` returned.
        output: The file; None: standard output.
        ids: Columns of ids, with all values that these may hold. Control characters in them and
            in titles are escaped in tables, and in csv on a terminal.
    """
    if output_format == "parquet":
        assert output is not None
        _write_parquet(frames, output, ids)
        return
    if output_format == "csv":
        frames = _warning_of_formulas(frames, list(ids))
    with _opened(output) as stream:
        if output_format == "json":
            _write_json(frames, stream)
        elif output_format == "jsonl":
            for frame in frames:
                stream.write("".join(f"{_json(row)}\n" for row in _records(frame)))
        elif output_format == "csv":
            _write_csv(frames, stream, list(ids))
        else:
            _write_table(list(frames), stream, list(ids))
        stream.flush()


def note(text: str) -> None:
    """Prints a note on standard error."""
    click.secho(f"note: {text}", fg="yellow", err=True)


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout  # click.echo would drop what looks like a terminal's escape sequence
        return
    with (
        atomic_path(output) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        yield file


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON has them: a missing value is null, and numbers are not rounded."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _json(value: Any, indent: int | None = None) -> str:
    lines = json.dumps(value, ensure_ascii=False, indent=indent).split("\n")
    return "\n".join(visible(line) for line in lines)


def _write_json(frames: Iterable[pd.DataFrame], stream: TextIO) -> None:
    begun = False
    for frame in frames:
        if len(frame):
            rows = _json(_records(frame), indent=2)[1:-2]  # without the brackets
            stream.write(f"{',' if begun else '['}{rows}")
            begun = True
    stream.write("\n]\n" if begun else "[]\n")


def _write_csv(frames: Iterable[pd.DataFrame], stream: TextIO, ids: Sequence[str]) -> None:
    for number, frame in enumerate(frames):
        # Python's writer quotes a cell with the end of a line in it, but not one with half of
        # "\r\n".
        texts = _texts(frame, ids)
        has_return = any("\r" in str(value) for name in texts for value in frame[name].unique())
        if stream.isatty():
            frame = _visible(frame, ids)
        text = frame.to_csv(
            index=False,
            header=number == 0,
            lineterminator="\n",
            quoting=csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL,
        )
        stream.write(text)


def _write_table(frames: list[pd.DataFrame], stream: TextIO, ids: Sequence[str]) -> None:
    import pandas as pd

    frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    if len(frame):
        titles = [name for name in _TITLES if name in frame]
        shown = _visible(frame, ids)
        shown = shown.assign(**{name: shown[name].fillna("-") for name in titles})
        table = shown.to_string(
            index=False, float_format="{:.4f}".format, na_rep="-", justify="right"
        )
        stream.write(f"{table}\n")


def _texts(frame: pd.DataFrame, ids: Sequence[str]) -> list[str]:
    """The columns that may hold any text: ids and titles."""
    return [*ids, *(name for name in _TITLES if name in frame)]


def _visible(frame: pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    shown = {
        name: frame[name].map(lambda v: visible(v) if isinstance(v, str) else v)
        for name in _texts(frame, ids)
    }
    return frame.assign(**shown)


def _warning_of_formulas(
    frames: Iterable[pd.DataFrame], ids: Sequence[str]
) -> Iterator[pd.DataFrame]:
    """Passes frames on; says at the end where a spreadsheet would take a text for a formula."""
    risky: dict[str, dict[str, None]] = {}
    for frame in frames:
        for name in _texts(frame, ids):
            risky.setdefault(name, {})
            for each in frame[name].unique():
                if isinstance(each, str) and each[:1] in tuple("=+-@\t\r"):
                    risky[name][each] = None
        yield frame
    for name, found in risky.items():
        if found:
            noun = "title" if name in _TITLES else "id"
            note(
                f"{count(len(found), noun)} in column {name}, such as {next(iter(found))!r}, may "
                "be taken for formulas by a spreadsheet; import this column as text"
            )


def _write_parquet(
    frames: Iterable[pd.DataFrame], output: Path, ids: Mapping[str, Iterable[Any]]
) -> None:
    """Writes a row group per frame; a column of ids is int64 if all are numbers, else text."""
    arrow, parquet = _pyarrow()
    texts = {name for name, values in ids.items() if not all(type(v) is int for v in values)}
    types = {
        **{name: arrow.string() if name in texts else arrow.int64() for name in ids},
        **dict.fromkeys(_TITLES, arrow.string()),
        **dict.fromkeys(("rank", "timestamp"), arrow.int64()),
        "feedback": arrow.string(),
        "source": arrow.string(),
    }
    writer = None
    with atomic_path(output) as temporary:
        try:
            for frame in frames:
                if writer is None:
                    fields = [(name, types.get(name, arrow.float32())) for name in frame.columns]
                    schema = arrow.schema(fields)
                    writer = parquet.ParquetWriter(str(temporary), schema)
                frame = frame.assign(**{name: frame[name].astype(str) for name in texts})
                writer.write_table(arrow.Table.from_pandas(frame, schema, preserve_index=False))
        finally:
            if writer is not None:
                writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(
            "--format parquet needs pyarrow: pip install 'emorec[parquet]'"
        ) from error
