from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emorec import EmoRec
from emorec.config import ConfigError, load_config
from emorec.data.describe import describe
from emorec.data.tables import DataError
from emorec.experiment import load_data
from tests.small import small_config


def write(path, header, rows, encoding="utf-8"):
    lines = [*([header] if header else []), *rows]
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


def rows(form, number=24):
    """Rows of a log of 4 users and 6 items; ``form`` takes step, user, item, stars and time."""
    return [
        form.format(n=n, u=n % 4, i=n % 6, stars=1 + n % 5, t=1_600_000_000 + 60 * n)
        for n in range(number)
    ]


def guessed(found):
    """Settings without the file, and rules."""
    settings = {key: value for key, value in found.settings.items() if key != "dataset"}
    return settings, tomllib.loads(found.rules)


def test_movielens_ratings(tmp_path):
    path = write(
        tmp_path / "ratings.csv", "userId,movieId,rating,timestamp", rows("{u},{i},{stars}.0,{t}")
    )
    found = describe(path)
    assert found.settings == {
        "dataset": str(path),
        "user_column": "userId",
        "item_column": "movieId",
        "time_column": "timestamp",
        "rating_column": "rating",
        "rules": "ratings",
    }
    assert found.rules == "" and found.problems == ()
    assert "user_column: 'userId', by its name" in found.guesses


def test_figures_by_hand():
    frame = pd.DataFrame(
        [
            ("a", "x", 5, "2020-01-01"),
            ("a", "y", 4, "2020-01-01"),  # tied with the first
            ("a", "x", 1, "2020-01-02"),  # repeats x
            ("b", "x", 3, "2020-03-04"),
            ("b", "x", 3, "2020-03-04"),  # the same row again
            ("b", "z", 0, "2020-03-05"),  # not rated
        ],
        columns=["user", "item", "stars", "date"],
    )
    found = describe(frame)
    assert found.problems == () and found.settings["rules"] == "ratings"
    text = "\n".join(found.figures)
    assert "rows      6, of which 4 are kept (left out: 1 not rated, 1 duplicate)" in text
    assert "users     2, 2 of them with fewer than five events" in text
    assert "items     2, 2 of them with fewer than five events" in text
    assert "feedback  1 explicit-positive (25.0%)" in text
    assert "feedback  1 explicit-negative (25.0%)" in text
    assert "repeats   1 rows" in text
    assert "sparsity  25.00%" in text  # 3 of 4 pairs
    assert "ties      2 rows" in text
    assert "times     2020-01-01 to 2020-03-04 (UTC)" in text
    assert "fit(frame)" in str(found) and "dataset" not in found.config_toml()


@pytest.mark.parametrize("words", [("0", "1"), ("false", "true"), ("False", "True")])
def test_thumbs(tmp_path, words):
    lines = [f"u{n % 4},i{n % 6},{words[n % 2]}" for n in range(24)]
    found = describe(write(tmp_path / "likes.csv", "user,item,liked", lines))
    settings, rules = guessed(found)
    assert settings == {
        "user_column": "user", "item_column": "item", "time_column": "", "rating_column": "liked"
    }  # fmt: skip
    if found.problems:
        pytest.fail("\n".join(found.problems))
    assert rules == {"explicit_positive": "rating == 1", "explicit_negative": "rating == 0"}
    assert "feedback  12 explicit-positive (50.0%)" in found.figures


def test_plays_without_ratings(tmp_path):
    lines = rows("listener{u}\tsong{i}\t2021-05-{n:02d}T10:00:00".replace("{n:02d}", "0{stars}"))
    found = describe(write(tmp_path / "plays.tsv", "user\tsong\tplayed_at", lines))
    settings, rules = guessed(found)
    assert settings == {"user_column": "user", "item_column": "song", "time_column": "played_at"}
    assert rules == {"implicit_positive": "True"}
    assert any("no column looks like ratings" in line for line in found.guesses)


def test_german_columns(tmp_path):
    lines = [
        f"Zoë {n % 4};Stück {n % 6};{n % 5},5;{1 + n % 28:02d}.11.2020" for n in range(40)
    ]  # ratings 0,5 to 4,5
    path = write(tmp_path / "bewertungen.csv", "Kunden ID;Artikel;Bewertung;Datum", lines, "cp1252")
    found = describe(path)
    settings, _ = guessed(found)
    assert settings == {
        "encoding": "cp1252",
        "decimal": ",",
        "user_column": "Kunden ID",
        "item_column": "Artikel",
        "time_column": "Datum",
        "time_format": "%d.%m.%Y",
        "rating_column": "Bewertung",
        "rules": "ratings",
    }
    assert found.problems == ()


def test_json_lines(tmp_path):
    records = [
        {"reviewerID": f"A{n % 4}", "asin": f"B{n % 6}", "overall": 1 + n % 5, "helpful": [n, 1],
         "unixReviewTime": 1_400_000_000 + n}
        for n in range(24)
    ]  # fmt: skip
    found = describe(write(tmp_path / "reviews.jsonl", None, map(json.dumps, records)))
    settings, _ = guessed(found)
    assert settings["user_column"] == "reviewerID" and settings["item_column"] == "asin"
    assert settings["rating_column"] == "overall" and settings["rules"] == "ratings"
    assert found.problems == ()


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "log.parquet"
    day = pd.Timestamp("2022-02-02")
    pd.DataFrame(
        {"who": [f"w{n % 4}" for n in range(24)], "what": [f"t{n % 6}" for n in range(24)],
         "when": [day + pd.Timedelta(hours=n) for n in range(24)]}
    ).to_parquet(path)  # fmt: skip
    found = describe(path)
    settings, _ = guessed(found)
    assert settings == {"time_column": "when", "user_column": "who", "item_column": "what"}
    assert found.problems == ()


def test_no_header(tmp_path):
    lines = rows("{u}\t{i}\t{stars}\t{t}")
    lines[0] = "1\t1\t5\t1600000000"  # equal cells would be two columns of one name
    found = describe(write(tmp_path / "u.data", None, lines))
    settings, _ = guessed(found)
    assert settings["names"] == "user_id,item_id,rating,timestamp"
    assert settings["rules"] == "ratings" and found.problems == ()
    assert any(line.startswith("names: the first line is a row") for line in found.guesses)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        (np.tile([1, 5, 7, 10], 6), "rating >= 9"),  # grades to 10
        (np.tile([5, 40, 70, 100], 6), "rating >= 90"),  # percentages
        (np.tile([1, 2, 3, 4], 6), "rating >= 3.6"),  # may be stars, of which none is 5
    ],
)
def test_other_scales(values, rule):
    frame = pd.DataFrame({"user": np.arange(24) % 4, "item": np.arange(24) % 6, "score": values})
    found = describe(frame)
    assert guessed(found)[1]["explicit_positive"] == rule
    assert any("set data.rules=ratings" in line for line in found.guesses) == (max(values) <= 5)


def test_counts_are_implicit():
    frame = pd.DataFrame({"user": np.arange(24) % 4, "artist": np.arange(24) % 6, "plays": 1})
    assert guessed(describe(frame))[1] == {"implicit_positive": "rating > 0"}


def test_words():
    action = np.tile(["like", "play", "skip", "dislike", "admin's note", "play"], 4)
    frame = pd.DataFrame(
        {"user": np.arange(24) % 4, "item": np.arange(24) % 5, "event type": action}
    )
    found = describe(frame)
    assert found.settings["rating_column"] == "event type"
    assert guessed(found)[1] == {
        "explicit_positive": ["rating == 'like'"],
        "implicit_positive": ["rating == 'play'"],
        "implicit_negative": ["rating == 'skip'"],
        "explicit_negative": ["rating == 'dislike'"],
    }
    assert any("no rule matches 4 rows" in line for line in found.guesses)
    assert "rows      24, of which 20 are kept (left out: 4 no rule matches)" in found.figures


def test_given_rules_still_need_the_rating_column(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('explicit_positive = "rating > 3"\n')
    frame = pd.DataFrame(
        {"user": np.arange(24) % 4, "item": np.arange(24) % 6, "Note": np.arange(24) % 6}
    )
    found = describe(frame, f"data.rules={rules}")
    assert found.settings["rating_column"] == "Note" and found.rules == ""
    assert "rows      24, of which 8 are kept (left out: 4 not rated, 12 no rule matches)" in (
        found.figures
    )


def test_rules_that_are_there_stay(tmp_path):
    """Whatever stops between the two files, each config.toml has its own rules."""
    logs = [
        pd.DataFrame({"user": np.arange(99) % 7, "item": np.arange(99) % 11,
                      "rating": np.arange(99) % (most + 1) * (100 // most)})
        for most in (10, 100)
    ]  # fmt: skip
    logs[0]["rating"] //= 10
    named = []
    for log in (*logs, logs[0]):
        found = describe(log)
        config = load_config(file=found.write(tmp_path))
        named.append(Path(config.data.rules).name)
        assert Path(config.data.rules).read_text() == found.rules + "\n"
    assert named == ["rules.toml", "rules-2.toml", "rules.toml"]


def test_kinds_of_feedback():
    kinds = np.tile(["explicit_positive", "implicit_negative"], 12)
    frame = pd.DataFrame({"user": np.arange(24) % 4, "item": np.arange(24) % 6, "x": kinds})
    found = describe(frame)
    assert found.settings["feedback_column"] == "x" and found.rules == ""


def test_shipped_rules_by_their_columns():
    frame = pd.DataFrame(
        {"uid": np.arange(8) % 2, "item_id": np.arange(8), "timestamp": np.arange(8),
         "event_type": ["like", "listen"] * 4, "played_ratio_pct": [None, 80.0] * 4}
    )  # fmt: skip
    assert describe(frame).settings["rules"] == "yambda"


def test_settings_replace_guesses(tmp_path):
    path = write(tmp_path / "log.csv", "user,item,other,rating", rows("{u},{i},o{stars},{stars}"))
    found = describe(path, "data.item_column=other", "data.rules=ratings")
    assert found.settings["item_column"] == "other" and found.settings["rules"] == "ratings"
    assert "item_column: 'other', as set" in found.guesses
    assert found.problems == ()


def test_what_cannot_be_guessed(tmp_path):
    frame = pd.DataFrame({"user": np.arange(8) % 2, "rating": np.arange(8) % 5 + 1.0})
    found = describe(frame)
    assert found.figures == ()
    (problem,) = found.problems
    assert "no column looks like ids of items; give --set data.item_column=NAME" in problem
    assert "Not guessed:" in str(found)
    with pytest.raises(DataError, match="item_column"):
        found.write(tmp_path)
    words = pd.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "rating": list("abab")})
    (problem,) = describe(words).problems
    assert "neither numbers nor known words, such as 'a'" in problem
    words["rating"] = ["80 %", "20 %"] * 2
    (problem,) = describe(words).problems
    assert "write percentages without the sign" in problem
    (problem,) = describe(frame, "data.item_column=nothing").problems
    assert problem == "item_column: there is no column 'nothing'; the columns are user, rating"


def test_times_that_are_not_read_are_named():
    frame = pd.DataFrame(
        {"user": np.arange(8) % 2, "item": np.arange(8) % 4, "time": ["spring", "fall"] * 4}
    )
    found = describe(frame)
    assert found.settings["time_column"] == ""
    assert any("'time' is not taken: unknown format ('spring')" in each for each in found.guesses)
    frame["time"] = [None, *range(7)]
    assert any("1 row without a time" in line for line in describe(frame).guesses)


def test_ambiguous_dates_are_named():
    dates = [f"0{n + 1}/02/2020" for n in range(8)]
    frame = pd.DataFrame({"user": np.arange(8) % 2, "item": np.arange(8) % 4, "date": dates})
    found = describe(frame)
    assert found.settings["time_format"] == "%d/%m/%Y"
    assert any("'%m/%d/%Y' fits, too" in line for line in found.guesses)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.epochs=2", "only settings of the section data"),
        ("data.dataset=x", "give the file as the argument"),
        ("data.colour=x", "colour"),
    ],
)
def test_wrong_settings(setting, message):
    with pytest.raises(ConfigError, match=message):
        describe(pd.DataFrame({"user": [1], "item": [2]}), setting)


def test_what_is_no_file(tmp_path):
    with pytest.raises((DataError, OSError)):
        describe(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="is a folder"):
        describe(tmp_path)
    with pytest.raises(TypeError, match="got list"):
        describe([1, 2])
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"user,item\n" + b"1,2\n" * 9)[:20])
    with pytest.raises(DataError, match=r"cut.csv.gz"):
        describe(tmp_path / "cut.csv.gz")
    with pytest.raises(DataError, match="no-such-encoding"):
        describe(write(tmp_path / "a.csv", "user,item", ["1,2"]), "data.encoding=no-such-encoding")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path, encoding):
    lines = [f"Zoë {n % 4}|Æ{n % 6}\x9d|{1 + n % 5}" for n in range(24)]  # 9d is not in cp1252
    found = describe(write(tmp_path / "log.csv", "user|item|rating", lines, encoding))
    assert found.settings.get("encoding", "utf-8-sig") == encoding
    assert found.problems == () and "users     4," in found.figures[1]


def test_the_written_settings_train(tmp_path):
    lines = [f"k{n % 5};f{n % 37};{n % 11};{1_600_000_000_000 + n}" for n in range(80)]
    path = write(tmp_path / "log.csv", "Kunde;Film;Bewertung;Zeit", lines)
    found = describe(path)
    assert found.rules
    config = load_config(file=found.write(tmp_path / "own"))
    log, report = load_data(config.data, None)
    assert report is not None and f"of which {len(log):,} are kept" in found.figures[0]
    small = small_config("training.epochs=1").updated(
        {"data": config.data.model_dump()}, "the description"
    )
    recommender = EmoRec(config=small).fit(path, progress=False)
    assert len(recommender.recommend(["k1"], k=2)) == 2


def test_short_histories_get_a_split_that_fits():
    frame = pd.DataFrame({"user": np.arange(24) % 4, "item": np.arange(24) % 6, "rating": 5})
    found = describe(frame)
    assert found.options == ("split.n=1",)  # six events per user
    assert tomllib.loads(found.config_toml())["split"] == {"n": 1}


def test_settings_that_cannot_read_the_log_are_a_problem(tmp_path):
    path = write(
        tmp_path / "log.csv", "user_id,item_id,rating,timestamp", rows("{u},{i},{stars},{t}")
    )
    found = describe(path, "data.feedback_column=rating")
    assert found.figures == ()
    assert any("the log cannot be read with these settings: " in each for each in found.problems)
    with pytest.raises(DataError, match="the log cannot be read with these settings"):
        found.write(tmp_path / "settings")
    assert not (tmp_path / "settings").exists()


def test_names_of_columns_that_are_given(tmp_path):
    path = write(tmp_path / "log.csv", "", rows("{u},{i},{stars},{t}"))
    found = describe(path, "data.names=item_id, user_id,rating,timestamp")
    assert found.problems == () and found.settings["names"] == "item_id, user_id,rating,timestamp"
    text = "\n".join(found.figures)
    assert "users     6, " in text and "items     4, " in text


def test_an_encoding_that_is_given(tmp_path):
    path = write(tmp_path / "log.csv", "user,item,rating", rows("é{u},{i},{stars}"), "latin-1")
    found = describe(path, "data.encoding=latin-1")
    assert found.problems == () and found.settings["encoding"] == "latin-1"
    assert [each for each in found.guesses if "encoding" in each] == ["encoding: 'latin-1', as set"]


def test_a_time_column_that_is_given():
    frame = pd.DataFrame(
        {"user": np.arange(8) % 2, "item": np.arange(8) % 4, "rating": 5, "when": range(8)}
    )  # too few seconds to be taken for times
    assert describe(frame).settings["time_column"] == ""
    found = describe(frame, "data.time_column=when")
    assert found.problems == () and found.settings["time_column"] == "when"
    assert "times     1970-01-01 to 1970-01-01 (UTC)" in "\n".join(found.figures)
    (problem,) = describe(frame, "data.time_column=then").problems
    assert problem.startswith("time_column: there is no column 'then'; the columns are user, item")


def test_a_rating_column_that_is_not_there():
    frame = pd.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "stars": [5, 4, 1, 5]})
    (problem,) = describe(frame, "data.rating_column=star").problems
    assert problem == "rating_column: there is no column 'star'; the columns are user, item, stars"


def test_flags_are_no_ids():
    frame = pd.DataFrame({"who": list("abab"), "paid": [True, False] * 2, "what": list("xyyx")})
    found = describe(frame)
    assert (found.settings["user_column"], found.settings["item_column"]) == ("who", "what")


def test_counts_of_0_and_1_are_plays_and_skips():
    frame = pd.DataFrame({"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "plays": [0, 1, 1, 0]})
    assert guessed(describe(frame))[1] == {
        "implicit_positive": "rating > 0",
        "implicit_negative": "rating == 0",
    }


def test_words_that_are_all_known():
    frame = pd.DataFrame(
        {"user": [1, 1, 2, 2], "item": [1, 2, 1, 2], "event": ["like", "skip"] * 2}
    )
    line = (
        "by the words of column 'event': 'like' is explicit_positive, 'skip' is implicit_negative"
    )
    assert any(each.endswith(line) for each in describe(frame).guesses)


def test_blanks_between_columns(tmp_path):
    path = write(tmp_path / "log.txt", "user item rating", rows("{u} {i} {stars}"))
    found = describe(path)
    assert found.problems == ()
    assert (found.settings["user_column"], found.settings["item_column"]) == ("user", "item")
