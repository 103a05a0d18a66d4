from __future__ import annotations

import csv
import io
import json

import pandas as pd
import pytest

import emorec
from emorec import cli
from emorec.recommender import EmoRec
from tests.cli.commands import assert_fails, call, log_lines, write_log
from tests.small import small_config


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

    def test_at(self, trained):
        arguments = ["--user", "Zoë 3", "-k", 2, "--format", "json"]
        now = call(cli.recommend, trained[0], *arguments).stdout
        for later in ("2026-11-29T10:00", "2026-11-29", 1660):
            assert call(cli.recommend, trained[0], *arguments, "--at", later).stdout == now
        # events are a minute apart from second 1000 on
        early = call(cli.recommend, trained[0], *arguments, "--at", "1970-01-01T00:17:40Z")
        assert early.stdout != now
        assert early.stdout == call(cli.recommend, trained[0], *arguments, "--at", 1119).stdout
        before = call(cli.recommend, trained[0], *arguments, "--at", "1970-01-01")
        assert "no events of user 'Zoë 3' up to the time of the request, who gets" in before.stderr
        assert {row["source"] for row in json.loads(before.stdout)} == {"popular"}
        assert_fails(
            cli.recommend, trained[0], *arguments, "--at", "soon",
            message="at: 'soon' is not a valid time; give an ISO date such as 2026-11-29T10:00",
        )  # fmt: skip

    @pytest.mark.parametrize("whom", [[], ["--all-users", "--user", "Zoë 3"]])
    def test_whom_the_lists_are_for(self, trained, whom):
        assert_fails(
            cli.recommend,
            trained[0],
            *whom,
            message="either --user ID, --users FILE or --all-users",
        )

    def test_an_unknown_user_is_told_so(self, trained):
        arguments = ["--user", "nobody", "--user", "Zoë 3", "-k", 1, "--format", "json"]
        result = call(cli.recommend, trained[0], *arguments)
        assert result.exit_code == 0
        assert (
            "note: the model has no events of 1 of 2 users, such as 'nobody', who get the most "
            "popular items" in result.stderr
        )
        found = json.loads(result.stdout)  # the note is not in the way
        assert [row["source"] for row in found] == ["popular", "model"]
        assert found[0]["score"] is None and found[1]["score"] is not None
        rows = call(cli.recommend, trained[0], *arguments[:-1], "csv").stdout.splitlines()
        assert rows[1].split(",")[3] == ""

    def test_seen_items_on_request(self, trained):
        arguments = ["--user", "Zoë 3", "-k", 50, "--format", "json"]
        without, with_seen, again = (
            {row["item"] for row in json.loads(call(cli.recommend, trained[0], *options).stdout)}
            for options in (
                arguments,
                [*arguments, "--allow-seen"],
                [*arguments, "--no-allow-seen"],
            )
        )
        assert without == again < with_seen

    @pytest.mark.parametrize(
        "command", [cli.train, cli.evaluate, cli.recommend, cli.main], ids=lambda c: c.name
    )
    def test_version(self, command):
        assert call(command, "--version").stdout.split()[-1] == emorec.__version__

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
            "note: 1 of 3 events are left out: they are of items without a train event, such as "
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
            "note: user 'eve' has seen every item; there is nothing left to recommend\n"
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


class TestIds:
    IDS = ("\x1b[31mred\x07", "=1+1", "a\rb", '"c",d', "\u202eright", "\x9bH")

    @pytest.fixture(scope="class")
    def run(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("ids")
        log = pd.DataFrame(
            [
                {"user_id": user, "item_id": f"{user}{n}", "rating": 5, "timestamp": n}
                for user in self.IDS
                for n in range(3)
            ]
        )
        config = small_config("training.epochs=1")
        EmoRec(config=config).fit(log, progress=False).save(folder / "run")
        return folder / "run"

    def test_come_out_as_they_went_in(self, run):
        for output in ("csv", "json"):
            text = call(cli.recommend, run, "--all-users", "-k", 50, "--format", output).stdout
            if output == "csv":
                rows = list(csv.DictReader(io.StringIO(text, newline="")))
            else:
                rows = json.loads(text)
                assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}
            assert {row["user"] for row in rows} == set(self.IDS)
            assert {row["item"] for row in rows} == {f"{u}{n}" for u in self.IDS for n in range(3)}

    def test_are_visible_in_tables(self, run):
        text = call(
            cli.recommend, run, "--user", self.IDS[0], "--user", self.IDS[4], "-k", 50
        ).stdout
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}
        assert "\\u001b[31mred\\u0007" in text and "\\u202eright" in text

    def test_that_spreadsheets_take_for_formulas_are_told(self, run):
        result = call(cli.recommend, run, "--user", self.IDS[0], "-k", 50, "--format", "csv")
        assert (
            "note: 3 ids in column item, such as '=1+10', may be taken for formulas"
            in result.stderr
        )
