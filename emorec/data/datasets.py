"""The data sets that EmoRec knows by name."""

from __future__ import annotations

import lzma
import os
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emorec.data.download import download, md5_of, recorded_sha256, sha256_of
from emorec.data.files import DataError, tar_members
from emorec.data.formats import read_amazon, read_goodreads, read_kuairand, read_movielens
from emorec.data.interactions import Interactions
from emorec.data.readers import ReadReport, RulesLike
from emorec.data.synthetic import generate
from emorec.files import one_line, read_text, require_regular_file
from emorec.suggestions import suggestion

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "default_data_dir",
    "find_dataset",
    "load_dataset",
    "read_dataset",
]

Reader = Callable[[Path, RulesLike], tuple[Interactions, ReadReport]]


@dataclass(frozen=True)
class Dataset:
    """A public data set: where it is, how it is read and on what terms.

    Attributes:
        name: Short name, as given to `load_dataset`.
        title: Full name.
        url: Official address of the file; None for a generated data set.
        md5: Checksum where the publisher gives one, else None.
        most: Largest size of the file that a download accepts, in bytes.
        files: Paths below the data folder that count as present, the downloaded file first.
        read: Reads any of ``files``; None for a generated data set.
        rules: Shipped feedback rules that fit.
        citation: What to cite.
        terms: Terms of use, one line.
    """

    name: str
    title: str
    url: str | None
    md5: str | None
    most: int
    files: tuple[str, ...]
    read: Reader | None
    rules: str
    citation: str
    terms: str


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
    if dataset.read is None:
        return generate(seed=0).interactions, None
    return dataset.read(
        find_dataset(name, data_dir, progress=progress), dataset.rules if rules is None else rules
    )


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
    told = os.environ.get("EMOREC_DATA_DIR")
    return Path(told).expanduser() if told else Path.home() / ".cache" / "emorec"


def _known(name: str) -> Dataset:
    if name not in DATASETS:
        raise DataError(f"there is no data set {name!r} ({suggestion(name, DATASETS)})")
    return DATASETS[name]


def _warn_if_other(dataset: Dataset, path: Path) -> None:
    """A local copy may be repacked or unpacked; only the packed official one has the checksum."""
    if path.name != dataset.files[0]:
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


# The random log is left out: its exposure is an experiment of its own.
_KUAIRAND_LOGS = (
    "KuaiRand-Pure/data/log_standard_4_08_to_4_21_pure.csv",
    "KuaiRand-Pure/data/log_standard_4_22_to_5_08_pure.csv",
)


def _kuairand(path: Path, rules: RulesLike) -> tuple[Interactions, ReadReport]:
    if path.name.endswith(".tar.gz"):
        return read_kuairand(path, members=_members(path, _KUAIRAND_LOGS), rules=rules)
    if path.name in (Path(log).name for log in _KUAIRAND_LOGS):
        logs = [path.parent / Path(log).name for log in _KUAIRAND_LOGS]
        return read_kuairand(logs, rules=rules)
    return read_kuairand(path, rules=rules)


def _members(path: Path, wanted: Sequence[str]) -> list[str]:
    """The wanted files as the archive spells them, in the order wanted."""
    try:
        require_regular_file(path)
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        else:
            with tarfile.open(path) as tar:
                names = [info.name for info in tar_members(tar, path)]
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
    found = [next((n for n in names if n.removeprefix("./") == w), None) for w in wanted]
    absent = [w for w, f in zip(wanted, found, strict=True) if f is None]
    if absent:
        raise DataError(
            f"{path}: there is no {absent[0]} in the archive ({suggestion(absent[0], names)})"
        )
    return [name for name in found if name is not None]


_MB = 10**6  # bytes
_HARPER = "Harper & Konstan 2015, The MovieLens Datasets: History and Context, ACM TiiS 5(4)"
_GROUPLENS_TERMS = "research use; no redistribution or commercial use without permission"
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="ml-100k",
            title="MovieLens 100K",
            url=f"{_GROUPLENS}/ml-100k.zip",
            md5="0e33842e24a9c977be4e0107933c0723",
            most=20 * _MB,
            files=("ml-100k.zip", "ml-100k/u.data", "u.data"),
            read=_movielens("ml-100k/u.data"),
            rules="ratings",
            citation=_HARPER,
            terms=_GROUPLENS_TERMS,
        ),
        Dataset(
            name="ml-1m",
            title="MovieLens 1M",
            url=f"{_GROUPLENS}/ml-1m.zip",
            md5="c4d9eecfca2ab87c1945afe126590906",
            most=25 * _MB,
            files=("ml-1m.zip", "ml-1m/ratings.dat"),
            read=_movielens("ml-1m/ratings.dat"),
            rules="ratings",
            citation=_HARPER,
            terms=_GROUPLENS_TERMS,
        ),
        Dataset(
            name="ml-latest-small",
            title="MovieLens Latest (small)",
            url=f"{_GROUPLENS}/ml-latest-small.zip",
            md5=None,  # the file changes with each release
            most=20 * _MB,
            files=("ml-latest-small.zip", "ml-latest-small/ratings.csv"),
            read=_movielens("ml-latest-small/ratings.csv"),
            rules="ratings",
            citation=_HARPER,
            terms=_GROUPLENS_TERMS,
        ),
        Dataset(
            name="amazon-beauty",
            title="Amazon reviews 2014, Beauty, 5-core",
            url="https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_Beauty_5.json.gz",
            md5=None,
            most=500 * _MB,
            files=("reviews_Beauty_5.json.gz", "reviews_Beauty_5.json"),
            read=_amazon,
            rules="ratings",
            citation="McAuley et al. 2015, Image-based recommendations on styles and substitutes, "
            "SIGIR; He & McAuley 2016, Ups and downs, WWW",
            terms="research use; cite the papers",
        ),
        Dataset(
            name="goodreads-spoiler",
            title="Goodreads reviews, spoiler subset",
            url="https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/goodreads_reviews_spoiler_raw.json.gz",
            md5=None,
            most=3_000 * _MB,
            files=("goodreads_reviews_spoiler_raw.json.gz", "goodreads_reviews_spoiler_raw.json"),
            read=_goodreads,
            rules="ratings",
            citation="Wan et al. 2019, Fine-grained spoiler detection from large-scale review "
            "corpora, ACL",
            terms="academic use only; no redistribution or commercial use",
        ),
        Dataset(
            name="kuairand-pure",
            title="KuaiRand-Pure, standard logs",
            url="https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz",
            md5=None,
            most=2_000 * _MB,
            files=(
                "KuaiRand-Pure.tar.gz",
                _KUAIRAND_LOGS[0],
                "kuairand_pure_slice.csv.gz",
            ),
            read=_kuairand,
            rules="kuairand",
            citation="Gao et al. 2022, KuaiRand: an unbiased sequential recommendation dataset "
            "with randomly exposed videos, CIKM",
            terms="CC BY-SA 4.0",
        ),
        Dataset(
            name="synthetic",
            title="Generated log with known tastes",
            url=None,
            md5=None,
            most=0,
            files=(),
            read=None,
            rules="",
            citation="none needed",
            terms="generated by EmoRec, free to use",
        ),
    )
}
