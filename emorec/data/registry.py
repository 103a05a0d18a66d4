"""Registry of public data sets: address, files, feedback rules and terms."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DATASETS", "KUAIRAND_LOGS", "Dataset"]


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
    rules: str
    citation: str
    terms: str


# The random log is left out: its exposure is an experiment of its own.
KUAIRAND_LOGS = (
    "KuaiRand-Pure/data/log_standard_4_08_to_4_21_pure.csv",
    "KuaiRand-Pure/data/log_standard_4_22_to_5_08_pure.csv",
)

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
            rules="ratings",
            citation=_HARPER,
            terms=_GROUPLENS_TERMS,
        ),
        Dataset(
            name="ml-20m",
            title="MovieLens 20M",
            url=f"{_GROUPLENS}/ml-20m.zip",
            md5="cd245b17a1ae2cc31bb14903e1204af3",
            most=600 * _MB,
            files=("ml-20m.zip", "ml-20m/ratings.csv"),
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
                KUAIRAND_LOGS[0],
                "kuairand_pure_slice.csv.gz",
            ),
            rules="kuairand",
            citation="Gao et al. 2022, KuaiRand: an unbiased sequential recommendation dataset "
            "with randomly exposed videos, CIKM",
            terms="CC BY-SA 4.0",
        ),
        Dataset(
            name="yambda-50m",
            title="Yambda, 50 million events of Yandex Music",
            url="https://huggingface.co/datasets/yandex/yambda/resolve/main/flat/50m/multi_event.parquet",
            md5=None,
            most=5_000 * _MB,
            files=("flat/50m/multi_event.parquet", "flat/50m/listens.parquet"),
            rules="yambda",
            citation="Ploshkin et al. 2025, Yambda-5B: a large-scale multi-modal dataset for "
            "ranking and retrieval, RecSys, arXiv:2505.22238",
            terms="Apache-2.0",
        ),
        Dataset(
            name="synthetic",
            title="Generated log with known tastes",
            url=None,
            md5=None,
            most=0,
            files=(),
            rules="",
            citation="none needed",
            terms="generated by EmoRec, free to use",
        ),
    )
}
