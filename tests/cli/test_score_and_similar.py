from __future__ import annotations

import json

import pytest

from emorec import cli
from emorec.recommender import EmoRec
from tests.cli.commands import TINY, assert_fails, call, log_lines, write_log


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


@pytest.fixture(scope="module")
def cold_run(tmp_path_factory):
    """A run with a cold item, whose features are those of the odd items."""
    folder = tmp_path_factory.mktemp("cold")
    data = write_log(folder / "log.csv", log_lines())
    kinds = [f"東京 {item},T {item},{'odd' if item % 2 else 'even'}" for item in range(12)]
    items = write_log(folder / "items.csv", [*kinds, "New,T,odd"], "item_id,title,kind")
    result = call(
        cli.train, "--dataset", data, "--items", items, "--epochs", 1, "--preset",
        "emorec-graph", "--run-dir", folder / "run", *TINY, "--set", "data.item_features=kind",
    )  # fmt: skip
    assert "1 item is not in the log and is a cold item, such as 'New'" in result.stderr
    return folder / "run"


class TestCold:
    def rows(self, command, *arguments):
        result = call(command, *arguments, "--cold", "--format", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def test_in_lists_scores_and_similar_items(self, cold_run, tmp_path):
        candidates = tmp_path / "new.txt"
        candidates.write_text("New\n")
        (row,) = self.rows(cli.recommend, cold_run, "--user", "Zoë 3", "--candidates", candidates)
        assert (row["item"], row["title"], row["cold"]) == ("New", "T", True)
        pairs = write_log(tmp_path / "pairs.csv", ["Zoë 3,New"], "user_id,item_id")
        (scored,) = self.rows(cli.score, cold_run, "--pairs", pairs)
        assert scored["score"] == pytest.approx(row["score"], rel=1e-5)
        found = self.rows(cli.similar, cold_run, "--item", "New")
        assert {each["item"] for each in found} == {"New"}
        (explained,) = self.rows(cli.explain, cold_run, "--user", "Zoë 3", "--item", "New")
        assert explained["score"] == pytest.approx(row["score"], rel=1e-4)

    def test_they_must_be_asked_for(self, cold_run, trained, tmp_path):
        candidates = tmp_path / "new.txt"
        candidates.write_text("New\n")
        arguments = [cold_run, "--user", "Zoë 3", "--candidates", candidates]
        assert_fails(cli.recommend, *arguments, message="or cold=True \\(--cold\\) for cold items")
        message = "cold is true, but the model has no cold items"
        assert_fails(cli.recommend, trained[0], "--user", "Zoë 3", "--cold", message=message)
        message = "--cold is for items; leave it out with --user"
        assert_fails(cli.similar, cold_run, "--user", "Zoë 3", "--cold", message=message)
