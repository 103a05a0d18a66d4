import gzip
import hashlib
import http.server
import os
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emorec.data import registry
from emorec.data.datasets import (
    DATASETS,
    DataError,
    default_data_dir,
    find_dataset,
    load_dataset,
    load_items,
    read_dataset,
)
from emorec.data.download import recorded_sha256, sha256_of
from emorec.data.feedback import Feedback
from emorec.data.interactions import TICKS_PER_DAY
from tests.data.yambda import write_yambda, yambda_frame

RATINGS = "1::10::5::100\n1::11::4::200\n2::10::3::100\n2::12::1::300\n"


def make_zip(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/README", "a data set")
        archive.writestr("ml-1m/ratings.dat", RATINGS)
    return path.read_bytes()


@dataclass
class Site:
    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    cut_short: bool = False
    length: str | None = None  # a Content-Length in place of the right one; "none" sends none
    redirects: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def site() -> Iterator[Site]:
    """A server on this machine with the files that a test gives it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            if name in served.redirects:
                self.send_response(302)
                self.send_header("Location", served.redirects[name])
                self.end_headers()
                return
            body = served.files.get(name)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            if served.length != "none":
                self.send_header("Content-Length", served.length or str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if served.cut_short else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Site(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield served
        server.shutdown()
        thread.join()


@pytest.fixture
def ml_1m(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The registry's ml-1m, moved to the test's server and given the checksum of its file."""
    archive = make_zip(tmp_path / "served.zip")
    site.files["ml-1m.zip"] = archive
    moved = replace(
        DATASETS["ml-1m"], url=f"{site.url}/ml-1m.zip", md5=hashlib.md5(archive).hexdigest()
    )
    monkeypatch.setitem(DATASETS, "ml-1m", moved)
    return site


def test_the_registry_is_complete() -> None:
    assert list(DATASETS) == [
        "ml-100k",
        "ml-1m",
        "ml-20m",
        "ml-latest-small",
        "amazon-beauty",
        "goodreads-spoiler",
        "kuairand-pure",
        "yambda-50m",
        "synthetic",
    ]
    for name, dataset in DATASETS.items():
        assert dataset.name == name
        assert dataset.title and dataset.citation and "\n" not in dataset.terms
        assert dataset.md5 is None or re.fullmatch("[0-9a-f]{32}", dataset.md5)
        if name != "synthetic":
            assert dataset.url is not None and dataset.url.endswith(dataset.files[0])
            assert dataset.url.startswith("https://")
            assert dataset.most > 10**7


def test_a_download_arrives_whole_and_is_found_again(
    ml_1m: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "data"
    log = load_dataset("ml-1m", folder)
    assert log.time.tolist() == [100, 200, 100, 300] and log.feedback.tolist() == [0, 1, 2, 3]
    assert [path.name for path in folder.iterdir()] == ["ml-1m.zip"]
    assert "ml-1m.zip" in capsys.readouterr().err
    ml_1m.files.clear()  # from here on there is nothing to download
    assert len(load_dataset("ml-1m", folder)) == 4


def test_progress_can_be_silenced(
    ml_1m: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_dataset("ml-1m", tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_a_wrong_checksum_of_a_download_is_an_error(ml_1m: Site, tmp_path: Path) -> None:
    ml_1m.files["ml-1m.zip"] = b"something else"
    with pytest.raises(DataError, match="the download has md5 .*, expected is "):
        find_dataset("ml-1m", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_cut_short_leaves_nothing(ml_1m: Site, tmp_path: Path) -> None:
    ml_1m.cut_short = True
    with pytest.raises(DataError, match="could not be downloaded"):
        find_dataset("ml-1m", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def refused_download(folder: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        find_dataset("ml-1m", folder, progress=False)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


def test_a_download_that_is_too_large_is_given_up(
    ml_1m: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(ml_1m.files["ml-1m.zip"])
    small = replace(DATASETS["ml-1m"], most=size - 1)
    monkeypatch.setitem(DATASETS, "ml-1m", small)
    message = f"{size} bytes are announced or sent, at most {size - 1} are right"
    refused_download(tmp_path / "announced", message)
    ml_1m.length = "none"
    refused_download(tmp_path / "sent", message)
    monkeypatch.setitem(DATASETS, "ml-1m", replace(small, most=size))
    assert find_dataset("ml-1m", tmp_path / "right", progress=False).stat().st_size == size


@pytest.mark.parametrize("length", ["-5", "many", "9" * 400])
def test_a_length_that_is_none(ml_1m: Site, tmp_path: Path, length: str) -> None:
    ml_1m.length = length
    refused_download(tmp_path / "data", "could not be downloaded")


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_redirections_lead_to_https_only(ml_1m: Site, tmp_path: Path, scheme: str) -> None:
    target = f"{ml_1m.url.replace('http', scheme)}/other.zip"
    ml_1m.files["other.zip"] = ml_1m.files["ml-1m.zip"]
    ml_1m.redirects["ml-1m.zip"] = target
    refused_download(tmp_path / "data", f"{target}.*(is not https|is not allowed)")


def test_redirections_to_https_are_followed(ml_1m: Site, tmp_path: Path) -> None:
    ml_1m.redirects["ml-1m.zip"] = ml_1m.url.replace("http", "https") + "/other.zip"
    # The test's server speaks no TLS: that it is asked to is what counts.
    refused_download(tmp_path / "data", "SSL|ssl")


def test_only_addresses_of_the_web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = replace(DATASETS["ml-1m"], url="file:///etc/passwd")
    monkeypatch.setitem(DATASETS, "ml-1m", local)
    refused_download(tmp_path / "data", "file:///etc/passwd is not an address of the web")


def test_a_file_without_a_published_checksum_is_recorded(
    ml_1m: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = replace(DATASETS["ml-1m"], md5=None)
    monkeypatch.setitem(DATASETS, "ml-1m", unknown)
    sha256 = hashlib.sha256(ml_1m.files["ml-1m.zip"]).hexdigest()
    with pytest.warns(UserWarning, match=f"no checksum is published, .* SHA-256 {sha256} is reco"):
        path = find_dataset("ml-1m", tmp_path / "data", progress=False)
    recorded = path.with_name("ml-1m.zip.sha256")
    assert recorded.read_text() == f"{sha256}  ml-1m.zip\n"  # as sha256sum writes and checks it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_dataset("ml-1m", tmp_path / "data")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.warns(UserWarning, match=f"is not that of the file that was downloaded .{sha256}"):
        find_dataset("ml-1m", tmp_path / "data")


def test_without_network_the_error_says_what_to_put_where(
    ml_1m: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ml_1m.files.clear()
    url = DATASETS["ml-1m"].url
    with pytest.raises(DataError) as caught:
        load_dataset("ml-1m", tmp_path / "data")
    said = str(caught.value)
    assert "404" in said
    assert f"Fetch {url} by other means and put it at {tmp_path / 'data' / 'ml-1m.zip'}" in said
    nobody = replace(DATASETS["ml-1m"], url="http://127.0.0.1:9/ml-1m.zip")
    monkeypatch.setitem(DATASETS, "ml-1m", nobody)
    with pytest.raises(DataError, match="Fetch http://127.0.0.1:9/ml-1m.zip by other means"):
        load_dataset("ml-1m", tmp_path / "data")


def test_a_folder_that_cannot_be_made_is_named(ml_1m: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write into .*file"):
        load_dataset("ml-1m", tmp_path / "file" / "data")


def test_a_local_file_of_another_checksum_is_used_with_a_warning(tmp_path: Path) -> None:
    make_zip(tmp_path / "ml-1m.zip")
    with pytest.warns(UserWarning, match="is not that of the official file .*used all the same"):
        assert len(load_dataset("ml-1m", tmp_path)) == 4


def test_what_a_killed_download_left_is_removed(ml_1m: Site, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    abandoned, current, other = (
        folder / name
        for name in (".ml-1m.zip.abandoned.part", ".ml-1m.zip.current.part", ".other.zip.x.part")
    )
    for path in (abandoned, current, other):
        path.write_bytes(b"half of it")
    for path in (abandoned, other):
        os.utime(path, (0, 0))
    load_dataset("ml-1m", folder, progress=False)
    assert {path.name for path in folder.iterdir()} == {"ml-1m.zip", current.name, other.name}


def test_unpacked_files_count_as_present(tmp_path: Path) -> None:
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").write_text(RATINGS)
    log, report = read_dataset("ml-1m", tmp_path)
    assert len(log) == 4
    assert report is not None and report.source.endswith("ratings.dat")


@pytest.mark.parametrize("name", ["ml-20m", "ml-latest-small"])
def test_archives_with_ratings_in_csv(name: str, tmp_path: Path) -> None:
    rows = "1,2,3.5,1112486027\n1,29,5.0,1112484676\n2,29,0.5,974820889\n"
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
        archive.writestr(f"{name}/movies.csv", "movieId,title,genres\n")
        archive.writestr(f"{name}/ratings.csv", f"userId,movieId,rating,timestamp\n{rows}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "md5 .* is not that of the official file")
        log = load_dataset(name, tmp_path)
    assert [int(each) for each in log.items.ids] == [2, 29]
    assert log.feedback.tolist() == [1, 0, 3]
    assert log.time.tolist() == [1112486027, 1112484676, 974820889]


@pytest.mark.parametrize(
    "name, member, text",
    [
        ("ml-1m", "movies.dat", "11::Café: a, \"b\" (1995)::Comedy|Drama\n7::X::Drama\n"),
        ("ml-100k", "u.item", "".join(f"{row}\n" for row in (
            f'11|Café: a, "b" (1995)|01-Jan-1995||url{"|0" * 5}|1{"|0" * 2}|1{"|0" * 10}',
            f"7|X|||{'|0' * 19}",
        ))),
        ("ml-20m", "movies.csv", 'movieId,title,genres\n11,"Café: a, ""b"" (1995)",Drama\n7,X,\n'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_packed", [True, False])
def test_titles_of_movielens(
    name: str, member: str, text: str, is_packed: bool, tmp_path: Path
) -> None:
    content = text.encode("utf-8" if member.endswith(".csv") else "latin-1")
    log = {"ml-1m": "ratings.dat", "ml-100k": "u.data", "ml-20m": "ratings.csv"}[name]
    if is_packed:
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(f"./{name}/{member}", content)
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / log).touch()
        (tmp_path / name / member).write_bytes(content)
    found = load_items(name, tmp_path)
    assert found is not None
    assert found.columns.tolist() == ["item_id", "title", "genres", "year"]
    assert found["item_id"].tolist() == ["11", "7"]
    assert found["title"].tolist() == ['Café: a, "b" (1995)', "X"]
    assert found["year"].tolist()[0] == 1995 and found["year"].isna().tolist() == [False, True]
    genres = found["genres"].tolist()
    assert genres[0] == ("Drama" if name == "ml-20m" else "Comedy|Drama")
    assert pd.isna(genres[1]) == (name != "ml-1m")


def test_data_sets_without_titles(tmp_path: Path) -> None:
    make_zip(tmp_path / "ml-1m.zip")
    assert load_items("ml-1m", tmp_path) is None
    assert load_items("synthetic", tmp_path) is None
    assert load_items("amazon-beauty", tmp_path) is None
    (tmp_path / "u.data").touch()
    assert load_items("ml-100k", tmp_path) is None


def test_rules_may_be_replaced(tmp_path: Path) -> None:
    make_zip(tmp_path / "ml-1m.zip")
    rules = {"implicit_positive": "rating >= 4", "implicit_negative": "rating < 4"}
    with pytest.warns(UserWarning, match="md5"):
        log = load_dataset("ml-1m", tmp_path, rules=rules)
    assert log.feedback.tolist() == [1, 1, 2, 2]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ml-latest-small.zip"
    path.write_bytes(make_zip(tmp_path / "other.zip")[:80])
    with pytest.raises(DataError, match="ml-latest-small.zip: the archive is truncated or damaged"):
        load_dataset("ml-latest-small", tmp_path)
    make_zip(path)
    with pytest.raises(DataError, match="there is no ml-latest-small/ratings.csv in the archive"):
        load_dataset("ml-latest-small", tmp_path)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(DataError, match="no data set 'ml-1n' .did you mean 'ml-1m'"):
        load_dataset("ml-1n")


def test_the_generated_data_set_needs_no_file() -> None:
    log, report = read_dataset("synthetic")
    again = load_dataset("synthetic")
    assert report is None
    assert np.array_equal(log.item, again.item) and min(log.feedback_counts().values()) > 0
    with pytest.raises(DataError, match="'synthetic' is generated and has no file"):
        find_dataset("synthetic")


def test_where_data_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMOREC_DATA_DIR", str(tmp_path))
    assert default_data_dir() == tmp_path
    monkeypatch.delenv("EMOREC_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_data_dir() == tmp_path / ".cache" / "emorec"


def test_the_standard_logs_of_kuairand_are_read_in_order(tmp_path: Path) -> None:
    header = "user_id,video_id,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,"
    header += "long_view,play_time_ms\n"
    for user, name in enumerate(reversed(registry.KUAIRAND_LOGS)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(header + f"{user},1,1649390000123,0,0,0,0,0,0,0,0\n")
    with pytest.warns(UserWarning, match="matches no row"):
        assert load_dataset("kuairand-pure", tmp_path).users.ids == [1, 0]


def test_yambda_is_found_in_the_publishers_folders(tmp_path: Path) -> None:
    folder = tmp_path / "flat" / "50m"
    write_yambda(folder, ("listen", "like", "dislike"))
    assert len(load_dataset("yambda-50m", tmp_path)) == 6
    yambda_frame().to_parquet(folder / "multi_event.parquet")
    assert find_dataset("yambda-50m", tmp_path).name == "multi_event.parquet"
    log, report = read_dataset("yambda-50m", tmp_path)
    assert len(log) == 6 and report is not None and report.rows_read == 8


def test_a_download_in_a_folder_is_compared_with_its_own_checksum(tmp_path: Path) -> None:
    path = tmp_path / DATASETS["yambda-50m"].files[0]
    path.parent.mkdir(parents=True)
    yambda_frame().to_parquet(path)
    recorded_sha256(path).write_text(f"{sha256_of(path)}  {path.name}\n")
    find_dataset("yambda-50m", tmp_path)
    recorded_sha256(path).write_text(f"{'0' * 64}  {path.name}\n")
    with pytest.warns(UserWarning, match="SHA-256 .* is not that of the file that was downloaded"):
        find_dataset("yambda-50m", tmp_path)


# Counts of the publishers; kinds of feedback counted by an independent pass over the files.
@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:.*md5")
@pytest.mark.parametrize(
    ("name", "size", "kinds"),
    [
        ("ml-100k", (100_000, 943, 1_682), (21_201, 34_174, 27_145, 17_480)),
        ("ml-1m", (1_000_209, 6_040, 3_706), (226_310, 348_971, 261_197, 163_731)),
        ("amazon-beauty", (198_502, 22_363, 12_101), (114_531, 39_741, 22_248, 21_982)),
    ],
)
def test_real_ratings(
    real_data_dir: Path, name: str, size: tuple[int, ...], kinds: tuple[int, ...]
) -> None:
    log, report = read_dataset(name, real_data_dir)
    assert (len(log), log.num_users, log.num_items) == size
    assert tuple(log.feedback_counts().values()) == kinds
    assert report is not None and sum(report.dropped.values()) == 0
    assert log.time_unit == "s"


@pytest.mark.real_data
@pytest.mark.filterwarnings("ignore:.*md5")
def test_real_ml_1m_is_in_the_order_of_the_file(real_data_dir: Path) -> None:
    log = load_dataset("ml-1m", real_data_dir)
    assert log.users.ids == list(range(1, 6041))
    with zipfile.ZipFile(real_data_dir / "ml-1m.zip") as archive:
        lines = archive.read("ml-1m/ratings.dat").decode().splitlines()
    for row in (0, 1, 500_000, 1_000_208):
        user, item, _, time = map(int, lines[row].split("::"))
        assert (log.users.ids[log.user[row]], log.items.ids[log.item[row]]) == (user, item)
        assert log.time[row] == time


@pytest.mark.real_data
def test_real_kuairand(real_data_dir: Path) -> None:
    path = real_data_dir / "kuairand_pure_slice.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    log, report = read_dataset("kuairand-pure", real_data_dir)
    assert report is not None and report.rows_read == 113_622
    with gzip.open(path, "rt") as file:
        names = next(file).rstrip().split(",")
        seen: dict[tuple[str, ...], int] = {}
        for line in file:
            row = dict(zip(names, line.rstrip().split(","), strict=True))
            if row["is_hate"] == "1":
                kind = Feedback.EXPLICIT_NEGATIVE
            elif "1" in (row["is_like"], row["is_follow"], row["is_comment"], row["is_forward"]):
                kind = Feedback.EXPLICIT_POSITIVE
            elif row["long_view"] == "1":
                kind = Feedback.IMPLICIT_POSITIVE
            elif row["is_click"] == "0" or int(row["play_time_ms"]) < 3000:
                kind = Feedback.IMPLICIT_NEGATIVE
            else:
                continue
            seen.setdefault((row["user_id"], row["video_id"], row["time_ms"], str(kind)), kind)
    kinds = list(seen.values())
    assert log.feedback.tolist() == kinds
    assert log.feedback_counts() == {kind: kinds.count(kind) for kind in Feedback}
    assert kinds.count(Feedback.EXPLICIT_NEGATIVE) == 91
    assert log.time_unit == "ms"


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        (
            "amazon-beauty", "reviews_Beauty_5.json",
            '{"reviewerID": "A", "asin": "B", "overall": 5.0, "unixReviewTime": 1649390000}\n',
        ),
        (
            "goodreads-spoiler", "goodreads_reviews_spoiler_raw.json",
            '{"user_id": "A", "book_id": "B", "rating": 5, '
            '"date_added": "Fri Apr 08 03:53:20 +0000 2022"}\n',
        ),
        (
            "kuairand-pure", "kuairand_pure_slice.csv.gz",
            "user_id,video_id,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,"
            "long_view,play_time_ms\nA,B,1649390000000,1,1,0,0,0,0,1,9000\n",
        ),
    ],
)  # fmt: skip
def test_each_is_read_by_its_own_reader(name: str, file: str, text: str, tmp_path: Path) -> None:
    content = text.encode()
    (tmp_path / file).write_bytes(gzip.compress(content) if file.endswith(".gz") else content)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* matches no row")
        log = load_dataset(name, tmp_path)
    assert (log.users.ids, log.items.ids) == (["A"], ["B"])
    assert log.feedback.tolist() == [Feedback.EXPLICIT_POSITIVE]
    assert (log.time / TICKS_PER_DAY[log.time_unit] * 86_400).tolist() == [1649390000]
