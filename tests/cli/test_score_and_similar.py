from __future__ import annotations

import json

import pytest

from emorec import cli
from emorec.recommender import EmoRec
from tests.cli.commands import assert_fails, call, write_log


class TestScore:
    def test_pairs_of_a_file(self, trained, tmp_path):
        lines = ["Zoë 3,東京 1,x", "nobody,東京 1,y", "Zoë 3,東京 99,z"]
        pairs = write_log(tmp_path / "pairs.csv", lines, "user_id,item_id,why")
        result = call(cli.score, trained[0], "--pairs", pairs, "--format", "json")
        assert result.exit_code == 0, result.output
        assert result.stderr == (
            "note: 2 of 3 pairs have no score: 1 of users without events, such as 'nobody', and 1 "
            "of unknown items, such as '東京 99'\n"
        )
        rows = json.loads(result.stdout)
        assert [(row["user"], row["item"]) for row in rows] == [
            ("Zoë 3", "東京 1"), ("nobody", "東京 1"), ("Zoë 3", "東京 99")
        ]  # fmt: skip
        assert [row["source"] for row in rows] == ["model", "popular", None]
        expected = EmoRec.load(trained[0], "torch").score([("Zoë 3", "東京 1")], before_test=False)
        assert rows[0]["score"] == pytest.approx(float(expected["score"][0]), rel=1e-5)

    def test_to_a_file(self, trained, tmp_path):
        pairs = write_log(tmp_path / "pairs.csv", ["Zoë 3,東京 1"], "user_id,item_id")
        output = tmp_path / "scores.csv"
        assert call(cli.score, trained[0], "--pairs", pairs, "-o", output).output == ""
        header, row = output.read_text(encoding="utf-8").splitlines()
        assert header == "user,item,score,liked,source"
        assert row.startswith("Zoë 3,東京 1,") and row.endswith(",model")

    def test_what_are_no_pairs(self, trained, tmp_path):
        pairs = write_log(tmp_path / "pairs.csv", ["1,2"], "user,item")
        message = "no column 'user_id'; the first line must name the columns user_id and item_id"
        assert_fails(cli.score, trained[0], "--pairs", pairs, message=message)
        assert_fails(cli.score, trained[0], message="Missing option '--pairs'")


class TestSimilar:
    @pytest.mark.parametrize("by", ["audience", "taste"])
    def test_items(self, trained, by):
        arguments = ["--item", "東京 3", "--item", "東京 1", "--by", by, "--format", "json"]
        result = call(cli.similar, trained[0], *arguments)
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)
        assert {row["item"] for row in rows} == {"東京 3", "東京 1"}
        assert all(row["similar"] != row["item"] and row["similarity"] > 0 for row in rows)

    def test_users(self, trained):
        result = call(cli.similar, trained[0], "--user", "Zoë 3", "-k", 1)
        header, row = result.stdout.splitlines()
        assert header.split() == ["user", "rank", "similar", "similarity"]
        assert row.split()[:2] == ["Zoë", "3"]

    @pytest.mark.parametrize("whom", [[], ["--item", "a", "--user", "b"]])
    def test_either_items_or_users(self, trained, whom):
        assert_fails(cli.similar, trained[0], *whom, message="give either --item ID or --user ID")

    def test_unknown_items(self, trained):
        message = "no item of the 1 given is known, such as 'x'"
        assert_fails(cli.similar, trained[0], "--item", "x", message=message)
