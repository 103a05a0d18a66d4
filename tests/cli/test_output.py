from __future__ import annotations

import csv
import io
import json
import sys

import numpy as np
import pandas as pd
import pytest

from emorec import EmoRec, cli
from emorec.cli import recommending
from emorec.cli.output import write_frames
from tests.cli.commands import assert_fails, call
from tests.small import small_config

FRAMES = [
    pd.DataFrame({"user": ["a", "b"], "rank": [1, 1], "score": np.float32([0.5, np.nan])}),
    pd.DataFrame({"user": pd.Series([], dtype=object), "rank": [], "score": []}),
    pd.DataFrame({"user": ["=1"], "rank": [2], "score": np.float32([0.1])}),
]
IDS = {"user": ["a", "b", "=1"]}


def written(output_format, path, frames=FRAMES):
    write_frames(iter(frames), output_format, path, IDS)
    return path.read_text(encoding="utf-8")


class TestBlocks:
    def test_csv(self, tmp_path, capsys):
        text = written("csv", tmp_path / "lists.csv")
        assert text == "user,rank,score\na,1,0.5\nb,1,\n=1,2,0.1\n"
        assert "1 id in column user, such as '=1', may be taken" in capsys.readouterr().err

    def test_csv_on_a_screen_shows_what_would_steer_it(self, monkeypatch):
        screen = io.StringIO()
        screen.isatty = lambda: True
        monkeypatch.setattr("sys.stdout", screen)
        write_frames([pd.DataFrame({"user": ["\x1b[2J"], "rank": [1]})], "csv", None, IDS)
        assert screen.getvalue() == "user,rank\n\\u001b[2J,1\n"

    def test_json_is_that_of_one_block(self, tmp_path):
        text = written("json", tmp_path / "lists.json")
        rows = json.loads(text)
        assert [row["user"] for row in rows] == ["a", "b", "=1"]
        assert rows[1]["score"] is None
        assert text == json.dumps(rows, indent=2) + "\n"
        assert written("json", tmp_path / "none.json", FRAMES[1:2]) == "[]\n"

    def test_json_lines(self, tmp_path):
        lines = written("jsonl", tmp_path / "lists.jsonl").splitlines()
        assert lines[1] == '{"user": "b", "rank": 1, "score": null}'
        assert len(lines) == 3

    def test_parquet(self, tmp_path):
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "lists.parquet"
        write_frames(iter(FRAMES), "parquet", path, IDS)
        frame = pd.read_parquet(path)
        assert frame["user"].tolist() == ["a", "b", "=1"]
        assert frame["score"].dtype == np.float32
        assert parquet.ParquetFile(path).num_row_groups >= 2

    def test_parquet_without_pyarrow(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ImportError, match=r"needs pyarrow: pip install 'emorec\[parquet\]'"):
            write_frames(iter(FRAMES), "parquet", tmp_path / "lists.parquet", IDS)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("ids", "expected"), [([3, 4], [3, 4]), ([3, "4"], ["3", "4"]), (["3", "4"], ["3", "4"])]
    )
    def test_ids_in_parquet(self, tmp_path, ids, expected):
        pytest.importorskip("pyarrow")
        frames = [pd.DataFrame({"item": [each]}) for each in ids]
        write_frames(frames, "parquet", tmp_path / "x.parquet", {"item": ids})
        assert pd.read_parquet(tmp_path / "x.parquet")["item"].tolist() == expected

    @pytest.mark.parametrize("output_format", ["csv", "json", "jsonl", "parquet"])
    def test_what_was_there_before_stays(self, tmp_path, output_format):
        def broken():
            yield FRAMES[0]
            raise RuntimeError("stop")

        path = tmp_path / "lists"
        path.write_text("before")
        with pytest.raises(RuntimeError, match="stop"):
            write_frames(broken(), output_format, path, IDS)
        assert path.read_text() == "before"
        assert list(tmp_path.iterdir()) == [path]


class TestTitles:
    frame = pd.DataFrame(
        {
            "item": ["a", "b", "c"],
            "title": pd.Series(["=A\x1b", None, "c\r, d"], dtype=object),
            "score": np.float32([0.5, 0.25, 0.125]),
        }
    )

    def written(self, output_format, path=None):
        write_frames([self.frame], output_format, path, {"item": ["a", "b", "c"]})

    def test_table(self, capsys):
        self.written("table")
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert rows == [
            ["item", "title", "score"],
            ["a", "=A\\u001b", "0.5000"],
            ["b", "-", "0.2500"],
            ["c", "c\\u000d,", "d", "0.1250"],
        ]

    def test_csv(self, tmp_path, capsys):
        self.written("csv", tmp_path / "lists.csv")
        with (tmp_path / "lists.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert [row[1] for row in rows] == ["title", "=A\x1b", "", "c\r, d"]
        assert "1 title in column title, such as '=A" in capsys.readouterr().err

    @pytest.mark.parametrize("output_format", ["json", "jsonl"])
    def test_json(self, capsys, output_format):
        self.written(output_format)
        text = capsys.readouterr().out
        rows = json.loads(text) if output_format == "json" else map(json.loads, text.splitlines())
        assert [row["title"] for row in rows] == self.frame["title"].tolist()

    def test_parquet(self, tmp_path):
        self.written("parquet", tmp_path / "lists.parquet")
        titles = pd.read_parquet(tmp_path / "lists.parquet")["title"]
        assert titles[[0, 2]].tolist() == ["=A\x1b", "c\r, d"]
        assert pd.isna(titles[1])

    def test_parquet_whose_first_block_has_no_title(self, tmp_path):
        frames = [self.frame[1:2], self.frame[:1]]
        write_frames(frames, "parquet", tmp_path / "lists.parquet", {"item": ["a", "b"]})
        assert pd.read_parquet(tmp_path / "lists.parquet")["title"][1] == "=A\x1b"


class TestOptions:
    @pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
    def test_the_suffix_decides(self, trained, tmp_path, suffix, monkeypatch):
        monkeypatch.setattr(recommending, "_BLOCK", 2)
        path = tmp_path / f"lists.{suffix}"
        result = call(cli.recommend, trained[0], "--all-users", "-k", 2, "-o", path)
        assert result.exit_code == 0 and result.output == ""
        text = call(cli.recommend, trained[0], "--all-users", "-k", 2, "--format", "csv").stdout
        expected = list(csv.DictReader(io.StringIO(text)))
        if suffix == "parquet":
            found = pd.read_parquet(path).to_dict("records")
        elif suffix == "csv":
            found = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        elif suffix == "json":
            found = json.loads(path.read_text(encoding="utf-8"))
        else:
            found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [(row["user"], row["item"]) for row in found] == [
            (row["user"], row["item"]) for row in expected
        ]
        assert [float(row["score"]) for row in found] == pytest.approx(
            [float(row["score"]) for row in expected], rel=1e-5
        )

    def test_what_is_no_file_of_lists(self, trained, tmp_path):
        arguments = trained[0], "--all-users", "--output"
        assert_fails(cli.recommend, *arguments, tmp_path / "x.doc", message="give --format, one of")
        message = "--format parquet needs --output FILE"
        assert_fails(cli.recommend, *arguments[:2], "--format", "parquet", message=message)


class TestFilters:
    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("numbers")
        rng = np.random.default_rng(0)
        log = pd.DataFrame(
            {
                "user_id": np.repeat(np.arange(6), 8),
                "item_id": 100 + rng.permutation(np.arange(48) % 20),
                "rating": rng.integers(1, 6, 48),
                "timestamp": np.arange(48),
            }
        )
        config = small_config("training.epochs=1")
        EmoRec(config=config).fit(log, progress=False).save(folder / "run")
        return folder / "run"

    def lists(self, run, *arguments):
        result = call(cli.recommend, run, "--format", "json", "--allow-seen", "-k", 50, *arguments)
        assert result.exit_code == 0, result.output
        return pd.DataFrame(json.loads(result.stdout)), result.stderr

    def test_from_files(self, run, tmp_path):
        (tmp_path / "users.txt").write_text("3\n1\n")
        (tmp_path / "items.txt").write_text("103\n104\n105\n999\n")
        (tmp_path / "sent.csv").write_text("user_id,item_id\n3,104\n")
        lists, notes = self.lists(
            run, "--users", tmp_path / "users.txt", "--candidates", tmp_path / "items.txt",
            "--exclude", tmp_path / "sent.csv",
        )  # fmt: skip
        assert notes == "note: items: 1 item id, such as '999', is left out: unknown to the model\n"
        assert lists["user"].drop_duplicates().tolist() == ["3", "1"]
        assert set(lists["item"][lists["user"] == "3"]) == {103, 105}
        assert set(lists["item"][lists["user"] == "1"]) == {103, 104, 105}

    def test_of_diverse_items(self, run):
        lists, _ = self.lists(run, "--user", "3", "-k", 4, "--diversity", 0.9)
        expected = EmoRec.load(run, "torch").recommend([3], 4, diversity=0.9, allow_seen=True)
        assert lists["item"].tolist() == expected["item"].tolist()

    def test_of_probably_liked_items(self, run):
        whole, _ = self.lists(run, "--user", "3")
        least = float(whole["liked"].median())
        lists, _ = self.lists(run, "--user", "3", "--min-liked", repr(least))
        assert lists["item"].tolist() == whole["item"][whole["liked"] >= least].tolist()
        result = call(cli.recommend, run, "--user", 3, "--user", 1, "--min-liked", 1)
        assert result.stdout == ""
        assert "no item is left for user '3' and 1 more: seen, or left out by" in result.stderr
