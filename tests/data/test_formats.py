import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from emorec.data.formats import (
    read_amazon,
    read_goodreads,
    read_kuairand,
    read_movielens,
    read_recbole,
    read_yambda,
)
from emorec.data.interactions import Interactions
from emorec.data.tables import DataError
from tests.data.yambda import EXPECTED as YAMBDA_EXPECTED
from tests.data.yambda import write_yambda, yambda_frame

pytestmark = pytest.mark.filterwarnings("ignore:.*this rule matches no row")

RATINGS_DAT = "7::1193::5::978300760\n7::661::3::978302109\n2::1193::2::978298413\n"
KUAIRAND_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab\n"
)


def rows(log: Interactions) -> list[tuple[object, object, int, int]]:
    columns = (log.users.lookup(log.user), log.items.lookup(log.item), log.feedback, log.time)
    return [(u, i, int(f), int(t)) for u, i, f, t in zip(*columns, strict=True)]


EXPECTED = [(7, 1193, 0, 978300760), (7, 661, 2, 978302109), (2, 1193, 3, 978298413)]


class TestYambda:
    def test_all_events_in_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "multi_event.parquet"
        yambda_frame().to_parquet(path, index=False)
        log, report = read_yambda(path)
        assert rows(log) == YAMBDA_EXPECTED
        assert log.time_unit == "s"
        assert report.dropped == {"not rated": 0, "no rule matches": 2, "duplicate": 0}

    def test_files_of_one_type_each(self, tmp_path: Path) -> None:
        write_yambda(tmp_path, ("listen", "like", "dislike", "unlike", "undislike"))
        log, report = read_yambda(tmp_path / "listens.parquet")
        assert sorted(rows(log)) == sorted(YAMBDA_EXPECTED)
        assert report.dropped["no rule matches"] == 2
        assert report.rows_read == 8

    def test_files_that_are_not_there_are_left_out(self, tmp_path: Path) -> None:
        write_yambda(tmp_path, ("listen", "dislike"))
        log, _ = read_yambda(tmp_path / "listens.parquet")
        assert [kind for _, _, kind, _ in rows(log)] == [1, 2, 1, 2, 3]

    def test_other_rules(self, tmp_path: Path) -> None:
        write_yambda(tmp_path, ("listen", "like"))
        rules = {"implicit_positive": "event_type == 'listen' and played_ratio_pct >= 50"}
        log, _ = read_yambda(tmp_path / "listens.parquet", rules=rules)
        assert rows(log) == [(100, 7, 1, 0), (200, 9, 1, 10)]
        organic = {"implicit_positive": "is_organic and track_length_seconds > 199"}
        log, _ = read_yambda(tmp_path / "listens.parquet", rules=organic)
        assert rows(log) == [(100, 7, 1, 0), (200, 9, 1, 10), (200, 7, 1, 26_000_000)]

    def test_a_file_that_is_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "multi_event.parquet"
        yambda_frame().drop(columns="event_type").to_parquet(path)
        with pytest.raises(DataError, match="multi_event.parquet: there is no column 'event_type'"):
            read_yambda(path)


def test_movielens_dat_keeps_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ratings.dat"
    path.write_text(RATINGS_DAT)
    log, report = read_movielens(path)
    assert rows(log) == EXPECTED
    assert log.time_unit == "s" and report.rows_kept == 3


def test_movielens_inside_the_zip(tmp_path: Path) -> None:
    path = tmp_path / "ml-1m.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-1m/ratings.dat", RATINGS_DAT)
    assert rows(read_movielens(path, member="ml-1m/ratings.dat")[0]) == EXPECTED
    with pytest.raises(DataError, match="no item named 'ml-1m/u.data' in the archive"):
        read_movielens(path, member="ml-1m/u.data")


def test_movielens_u_data(tmp_path: Path) -> None:
    path = tmp_path / "u.data"
    path.write_text(RATINGS_DAT.replace("::", "\t"))
    assert rows(read_movielens(path)[0]) == EXPECTED


def test_movielens_csv_with_half_stars(tmp_path: Path) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text(
        "userId,movieId,rating,timestamp\n1,1,4.5,964982703\n1,3,3.5,964981247\n2,6,0.5,964982224\n"
    )
    assert rows(read_movielens(path)[0]) == [
        (1, 1, 0, 964982703),
        (1, 3, 1, 964981247),
        (2, 6, 3, 964982224),
    ]


def test_movielens_without_a_header_counts_lines_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "ratings.dat"
    path.write_text("1::2::5::3\n1::2::five::4\n")
    with pytest.raises(DataError, match="line 2 of .*ratings.dat, column 'rating': 'five'"):
        read_movielens(path)


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_amazon_reviews(tmp_path: Path, suffix: str) -> None:
    review = {
        "reviewerID": "A1YJEY40YUW4SE",
        "asin": "7806397051",
        "reviewerName": "Andrea",
        "helpful": [3, 4],
        "reviewText": "Very oily",
        "overall": 1.0,
        "summary": "Don't",
        "unixReviewTime": 1391040000,
        "reviewTime": "01 30, 2014",
    }
    path = tmp_path / f"reviews_Beauty_5{suffix}"
    text = "".join(json.dumps(review | {"overall": stars}) + "\n" for stars in (1.0, 5.0))
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    assert rows(read_amazon(path)[0]) == [
        ("A1YJEY40YUW4SE", "7806397051", 3, 1391040000),
        ("A1YJEY40YUW4SE", "7806397051", 0, 1391040000),
    ]


def test_goodreads_drops_what_is_not_rated(tmp_path: Path) -> None:
    review = {
        "user_id": "8842281e1d1347389f2ab93d60773d4d",
        "book_id": "18245960",
        "review_id": "dfdbb7b0eb5a7e4c26d59a937e2e5feb",
        "rating": 5,
        "review_text": "This is a special book.",
        "date_added": "Sun Jul 30 07:44:10 -0700 2017",
        "n_votes": 28,
    }
    later = {"rating": 0, "date_added": "Fri Aug 25 13:55:02 -0700 2017"}
    low = {"rating": 2, "book_id": "1", "date_added": "Fri Aug 25 13:55:02 +0200 2017"}
    path = tmp_path / "goodreads_reviews_spoiler_raw.json.gz"
    lines = [json.dumps(review | change) for change in ({}, later, low)]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    log, report = read_goodreads(path)
    user = review["user_id"]
    assert rows(log) == [(user, "18245960", 0, 1501425850), (user, "1", 3, 1503662102)]
    assert log.time_unit == "s"
    assert report.dropped == {"not rated": 1, "no rule matches": 0, "duplicate": 0}


def kuairand_row(user: int, video: int, time: int, behaviour: str, play_ms: int) -> str:
    return f"{user},{video},20220408,1200,{time},{behaviour},{play_ms},9000,0,0,0,0,1\n"


def test_kuairand_logs_are_put_one_after_the_other(tmp_path: Path) -> None:
    skip = kuairand_row(3, 9, 1649390000123, "1,0,0,0,0,0,0", 800)
    hate = kuairand_row(3, 8, 1649390000456, "1,0,0,0,0,1,0", 9000)
    quiet = kuairand_row(4, 8, 1649390000789, "1,0,0,0,0,0,0", 5000)
    like = kuairand_row(4, 9, 1650390000000, "1,1,0,0,0,0,1", 9000)
    first, second = tmp_path / "log_standard.csv", tmp_path / "log_random.csv.gz"
    first.write_text(KUAIRAND_HEADER + skip + skip + hate + quiet)
    second.write_bytes(gzip.compress((KUAIRAND_HEADER + like).encode()))
    log, report = read_kuairand([first, second])
    assert rows(log) == [
        (3, 9, 2, 1649390000123),
        (3, 8, 3, 1649390000456),
        (4, 9, 0, 1650390000000),
    ]
    assert log.time_unit == "ms"
    assert report.dropped == {"not rated": 0, "no rule matches": 1, "duplicate": 1}

    second.write_bytes(gzip.compress((KUAIRAND_HEADER + like + like.replace("4,9", ",9")).encode()))
    with pytest.raises(DataError, match="line 3 of .*log_random.csv.gz, column 'user_id'"):
        read_kuairand([first, second])


def test_kuairand_inside_the_tar(tmp_path: Path) -> None:
    path = tmp_path / "KuaiRand-Pure.tar.gz"
    members = ["KuaiRand-Pure/data/a.csv", "KuaiRand-Pure/data/b.csv"]
    with tarfile.open(path, "w:gz") as archive:
        for number, member in enumerate(members):
            row = kuairand_row(number, 9, 1649390000123, "1,0,0,0,0,0,1", 800)
            info = tarfile.TarInfo(member)
            info.size = len(KUAIRAND_HEADER + row)
            archive.addfile(info, io.BytesIO((KUAIRAND_HEADER + row).encode()))
    log, _ = read_kuairand(path, members=members)
    assert rows(log) == [(0, 9, 1, 1649390000123), (1, 9, 1, 1649390000123)]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="truncated or damaged|not the archive"):
        read_kuairand(path, members=members)


def test_recbole_atomic_file(tmp_path: Path) -> None:
    path = tmp_path / "ml-100k.inter"
    path.write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t242\t3\t881250949\n186\t302\t3.0\t891717742.0\n"
    )
    with pytest.raises(DataError, match="all ratings are 3, but the rules 'ratings' are for stars"):
        read_recbole(path)
    assert rows(read_recbole(path, rules="ratings")[0]) == [
        (196, 242, 2, 881250949),
        (186, 302, 2, 891717742),
    ]
