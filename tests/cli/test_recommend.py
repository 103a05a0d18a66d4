from __future__ import annotations

import csv
import io
import json

import pytest

from emorec import cli
from tests.cli.commands import assert_fails, call, log_lines, write_log


class TestRecommend:
    def test_table(self, trained):
        result = call(cli.recommend, trained[0], "--user", "Zoë 3", "-k", 2)
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        assert lines[0].split() == ["user", "rank", "item", "score", "liked", "source"]
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
        assert rows[0].keys() == {"user", "rank", "item", "score", "liked", "source"}
        assert float(rows[0]["score"]) >= float(rows[1]["score"])

    def test_all_users(self, trained):
        arguments = ["-k", 2, "--format", "csv"]
        everybody = call(cli.recommend, trained[0], "--all-users", *arguments).stdout
        for number in range(6):
            arguments += ["--user", f"Zoë {number}"]
        assert everybody == call(cli.recommend, trained[0], *arguments).stdout
        assert len({line.split(",")[0] for line in everybody.splitlines()[1:]}) == 6

    @pytest.mark.parametrize("whom", [[], ["--all-users", "--user", "Zoë 3"]])
    def test_whom_the_lists_are_for(self, trained, whom):
        assert_fails(cli.recommend, trained[0], *whom, message="either --user ID or --all-users")

    def test_an_unknown_user_is_told_so(self, trained):
        arguments = ["--user", "nobody", "--user", "Zoë 3", "-k", 1, "--format", "json"]
        result = call(cli.recommend, trained[0], *arguments)
        assert result.exit_code == 0
        assert (
            "note: 1 of 2 users are unknown to the model, such as 'nobody'; they get the most"
            in result.stderr
        )
        found = json.loads(result.stdout)  # the note is not in the way
        assert [row["source"] for row in found] == ["popular", "model"]

    def test_nothing_already_met(self, trained):
        known = {line.split(",")[1] for line in log_lines() if line.startswith("Zoë 3,")}
        arguments = ["--user", "Zoë 3", "-k", 100, "--format", "json"]
        found = {
            row["item"] for row in json.loads(call(cli.recommend, trained[0], *arguments).stdout)
        }
        assert found
        assert not found & known

    def test_events_of_a_new_user(self, trained, tmp_path):
        lines = ["eve,東京 3,5,5000", "eve,東京 4,1,5060", "eve,東京 99,1,5120"]
        events = write_log(tmp_path / "events.csv", lines)
        arguments = ["--user", "eve", "-k", 20, "--events", events, "--format", "json"]
        result = call(cli.recommend, trained[0], *arguments)
        assert result.exit_code == 0, result.output
        assert result.stderr == (
            "note: the model leaves 1 of 3 events out: they are of items it does not know, such as "
            "'東京 99'\n"
        )
        found = json.loads(result.stdout)
        assert {row["source"] for row in found} == {"model"}
        known = {f"東京 {item}" for item in range(12)}
        assert {row["item"] for row in found} == known - {"東京 3", "東京 4"}

    def test_a_user_who_has_met_everything(self, trained, tmp_path):
        lines = [f"eve,東京 {item},5,{5000 + item}" for item in range(12)]
        events = write_log(tmp_path / "events.csv", lines)
        result = call(cli.recommend, trained[0], "--user", "eve", "--events", events)
        assert result.exit_code == 0
        assert result.stdout == ""
        assert result.stderr == (
            "note: user 'eve' has met every item; there is nothing left to recommend\n"
        )

    def test_events_that_cannot_be_read(self, trained, tmp_path):
        arguments = ["--user", "eve", "--events"]
        events = write_log(tmp_path / "events.csv", ["eve,東京 3,x,5000"])
        message = "line 2 of .*events.csv, column 'rating': 'x'"
        assert_fails(cli.recommend, trained[0], *arguments, events, message=message)
        gone = tmp_path / "gone.csv"
        message = "gone.csv: there is no such file"
        assert_fails(cli.recommend, trained[0], *arguments, gone, message=message)

    @pytest.mark.parametrize("arguments", [[], ["--user", "a", "-k", "0"]])
    def test_bad_options(self, trained, arguments):
        assert_fails(cli.recommend, trained[0], *arguments, message="--user|-k")

    def test_no_run_there(self, tmp_path):
        message = "gone: no such run folder"
        assert_fails(cli.recommend, tmp_path / "gone", "--user", "a", message=message)
