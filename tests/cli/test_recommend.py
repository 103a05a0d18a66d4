from __future__ import annotations

import csv
import io
import json

import pytest

from emorec import cli
from tests.cli.commands import assert_fails, call, log_lines


class TestRecommend:
    def test_table(self, trained):
        result = call(cli.recommend, trained[0], "--user", "Zoë 3", "-k", 2)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["user", "rank", "item", "score", "source"]
        assert len(lines) == 3
        assert all("Zoë 3" in line and "東京" in line and "model" in line for line in lines[1:])
        assert result.stderr == ""

    def test_json(self, trained):
        arguments = ["--user", "Zoë 3", "--user", "Zoë 1", "-k", 2, "--format", "json"]
        found = json.loads(call(cli.recommend, trained[0], *arguments).stdout)
        assert [(row["user"], row["rank"]) for row in found] == [
            ("Zoë 3", 1), ("Zoë 3", 2), ("Zoë 1", 1), ("Zoë 1", 2)
        ]  # fmt: skip
        assert all(row["item"].startswith("東京") for row in found)

    def test_csv(self, trained):
        arguments = ["--user", "Zoë 3", "-k", 2, "--format", "csv"]
        output = call(cli.recommend, trained[0], *arguments).stdout
        rows = list(csv.DictReader(io.StringIO(output)))
        assert [row["rank"] for row in rows] == ["1", "2"]
        assert rows[0].keys() == {"user", "rank", "item", "score", "source"}
        assert float(rows[0]["score"]) >= float(rows[1]["score"])

    def test_an_unknown_user_is_told_so(self, trained):
        arguments = ["--user", "nobody", "--user", "Zoë 3", "-k", 1, "--format", "json"]
        result = call(cli.recommend, trained[0], *arguments)
        assert result.exit_code == 0
        assert "user 'nobody' is unknown; these are the most popular items" in result.stderr
        found = json.loads(result.stdout)  # the note is not in the way
        assert [row["source"] for row in found] == ["popular", "model"]

    def test_nothing_already_met(self, trained):
        known = {line.split(",")[1] for line in log_lines()[: -2 * 6] if line.startswith("Zoë 3,")}
        arguments = ["--user", "Zoë 3", "-k", 100, "--format", "json"]
        found = {
            row["item"] for row in json.loads(call(cli.recommend, trained[0], *arguments).stdout)
        }
        assert found
        assert not found & known

    @pytest.mark.parametrize("arguments", [[], ["--user", "a", "-k", "0"]])
    def test_bad_options(self, trained, arguments):
        assert_fails(cli.recommend, trained[0], *arguments, message="--user|-k")

    def test_no_run_there(self, tmp_path):
        message = "gone: no such run folder"
        assert_fails(cli.recommend, tmp_path / "gone", "--user", "a", message=message)
