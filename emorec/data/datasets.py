"""Loads public data sets by name."""

from __future__ import annotations

import lzma
import os
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from emorec.data.download import download, md5_of, recorded_sha256, sha256_of
from emorec.data.files import DataError, tar_members
from emorec.data.formats import (
    read_amazon,
    read_goodreads,
    read_kuairand,
    read_movielens,
    read_movielens_items,
    read_yambda,
)
from emorec.data.interactions import Interactions
from emorec.data.readers import ReadReport, RulesLike
from emorec.data.registry import DATASETS, KUAIRAND_LOGS, Dataset
from emorec.storage.files import one_line, read_text, require_regular_file
from emorec.suggestions import suggestion

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "default_data_dir",
    "find_dataset",
    "load_dataset",
    "load_items",
    "read_dataset",
]

Reader = Callable[[Path, RulesLike], tuple[Interactions, ReadReport]]


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    rules: RulesLike | None = None,
    progress: bool = True,
) -> Interactions:
    """Loads a data set by name; finds its file in ``data_dir``, else downloads it there.

    Args:
        name: A name of `DATASETS`.
        data_dir: Where files are; None is `default_data_dir`.
        rules: Feedback rules in place of the data set's own.
        progress: Whether a download shows a progress bar.

    Raises:
        DataError: If the name is unknown, or the file is absent and cannot be downloaded.
    """
    return read_dataset(name, data_dir, rules=rules, progress=progress)[0]


def read_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    rules: RulesLike | None = None,
    progress: bool = True,
) -> tuple[Interactions, ReadReport | None]:
    """Like `load_dataset`, with the report of reading; None for a generated data set."""
    dataset = _known(name)
    if dataset.url is None:
        from emorec.data.synthetic import generate

        return generate(seed=0).interactions, None
    path = find_dataset(name, data_dir, progress=progress)
    return _READERS[name](path, dataset.rules if rules is None else rules)


def load_items(name: str, data_dir: str | Path | None = None) -> pd.DataFrame | None:
    """The items of a MovieLens data set, from the same archive as the log.

    Args:
        name: A name of `DATASETS`, or anything else.
        data_dir: Where files are; None is `default_data_dir`.

    Returns:
        Columns ``item_id, title, genres, year``; None for other data sets, and where the archive,
        or the folder of an unpacked one, does not hold the file of items.

    Raises:
        DataError: If the file cannot be read.
    """
    if name not in _ITEMS:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader of the log warns of another checksum
        path = find_dataset(name, data_dir)
    wanted = _ITEMS[name]
    if path.suffix != ".zip":
        path = path.with_name(Path(wanted).name)
        return read_movielens_items(path) if path.is_file() else None
    member = next((each for each in _names(path) if each.removeprefix("./") == wanted), None)
    return None if member is None else read_movielens_items(path, member=member)


def find_dataset(name: str, data_dir: str | Path | None = None, *, progress: bool = True) -> Path:
    """The file of a data set, downloaded if it is not in ``data_dir`` yet.

    Warns:
        UserWarning: If a file that was there has another checksum than the official one or the
            one that was recorded when it was downloaded, or if a download has none to compare with.

    Raises:
        DataError: If there is no such data set, or its file is absent and the download fails.
    """
    dataset = _known(name)
    folder = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    if dataset.url is None:
        raise DataError(f"data set {name!r} is generated and has no file")
    for file in dataset.files:
        path = folder / file
        if path.is_file():
            _warn_if_other(dataset, path)
            return path
    path = folder / dataset.files[0]
    try:
        download(dataset.url, path, dataset.md5, progress, dataset.most)
    except DataError as error:
        raise DataError(
            f"data set {name!r} is not in {folder} and could not be downloaded ({error}). "
            f"Fetch {dataset.url} by other means and put it at {path}"
        ) from error
    return path


def default_data_dir() -> Path:
    """``$EMOREC_DATA_DIR`` if set, else ``~/.cache/emorec``."""
    folder = os.environ.get("EMOREC_DATA_DIR")
    return Path(folder).expanduser() if folder else Path.home() / ".cache" / "emorec"


def _known(name: str) -> Dataset:
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r} ({suggestion(name, DATASETS)})")
    return DATASETS[name]


def _warn_if_other(dataset: Dataset, path: Path) -> None:
    """A local copy may be repacked or unpacked; only the packed official one has the checksum."""
    if path.name != Path(dataset.files[0]).name:
        return
    recorded = recorded_sha256(path)
    if dataset.md5 is not None:
        kind, right, found = "md5", dataset.md5, md5_of(path)
    elif recorded.is_file():
        kind, right, found = "SHA-256", read_text(recorded).split(" ")[0], sha256_of(path)
    else:
        return
    if found != right:
        whose = "the official file" if dataset.md5 is not None else "the file that was downloaded"
        warnings.warn(
            f"{path}: {kind} {found} is not that of {whose} ({right}); used all the same",
            stacklevel=3,
        )


def _movielens(*members: str) -> Reader:
    """A reader of the archive that holds one of ``members``, or of a member unpacked."""

    def read(path: Path, rules: RulesLike) -> tuple[Interactions, ReadReport]:
        if path.suffix != ".zip":
            return read_movielens(path, rules=rules)
        return read_movielens(path, member=_members(path, members)[0], rules=rules)

    return read


def _amazon(path: Path, rules: RulesLike) -> tuple[Interactions, ReadReport]:
    return read_amazon(path, rules=rules)


def _goodreads(path: Path, rules: RulesLike) -> tuple[Interactions, ReadReport]:
    return read_goodreads(path, rules=rules)


def _kuairand(path: Path, rules: RulesLike) -> tuple[Interactions, ReadReport]:
    if path.name.endswith(".tar.gz"):
        return read_kuairand(path, members=_members(path, KUAIRAND_LOGS), rules=rules)
    if path.name in (Path(log).name for log in KUAIRAND_LOGS):
        logs = [path.parent / Path(log).name for log in KUAIRAND_LOGS]
        return read_kuairand(logs, rules=rules)
    return read_kuairand(path, rules=rules)


def _yambda(path: Path, rules: RulesLike) -> tuple[Interactions, ReadReport]:
    return read_yambda(path, rules=rules)


def _members(path: Path, wanted: Sequence[str]) -> list[str]:
    """The wanted files as the archive spells them, in the order wanted."""
    names = _names(path)
    found = [next((n for n in names if n.removeprefix("./") == w), None) for w in wanted]
    absent = [w for w, f in zip(wanted, found, strict=True) if f is None]
    if absent:
        raise DataError(
            f"{path}: there is no {absent[0]} in the archive ({suggestion(absent[0], names)})"
        )
    return [name for name in found if name is not None]


def _names(path: Path) -> list[str]:
    """The files of an archive."""
    try:
        require_regular_file(path)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.namelist()
        with tarfile.open(path) as tar:
            return [info.name for info in tar_members(tar, path)]
    except DataError:
        raise
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError,
        RuntimeError, ValueError,
    ) as error:  # fmt: skip
        raise DataError(
            f"{path}: the archive is truncated or damaged ({one_line(error)}); "
            "copy or download it again"
        ) from error


_ITEMS = {
    "ml-100k": "ml-100k/u.item",
    "ml-1m": "ml-1m/movies.dat",
    "ml-20m": "ml-20m/movies.csv",
    "ml-latest-small": "ml-latest-small/movies.csv",
}
_READERS: dict[str, Reader] = {
    "ml-100k": _movielens("ml-100k/u.data"),
    "ml-1m": _movielens("ml-1m/ratings.dat"),
    "ml-20m": _movielens("ml-20m/ratings.csv"),
    "ml-latest-small": _movielens("ml-latest-small/ratings.csv"),
    "amazon-beauty": _amazon,
    "goodreads-spoiler": _goodreads,
    "kuairand-pure": _kuairand,
    "yambda-50m": _yambda,
}
