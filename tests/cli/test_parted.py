"""emorec-recommend --parts: lists in files that processes share."""

from __future__ import annotations

import pandas as pd
import pytest

from emorec import cli
from tests.cli.commands import assert_fails, call

pytest.importorskip("pyarrow", reason="needs pyarrow, the extra parquet")


@pytest.fixture
def everybody(trained, tmp_path):
    """The arguments for the lists of all users, and the lists from one file."""
    run = trained[0]
    result = call(cli.recommend, run, "--all-users", "-k", 3, "--output", tmp_path / "all.parquet")
    assert result.exit_code == 0, result.output
    arguments = (run, "--all-users", "-k", 3, "--format", "parquet", "--output", tmp_path / "lists")
    return arguments, pd.read_parquet(tmp_path / "all.parquet")


def read(folder):
    frames = [pd.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))]
    return pd.concat(frames).sort_values(["user", "rank"], ignore_index=True)


def assert_same(found, expected):
    expected = expected.sort_values(["user", "rank"], ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-5)


def test_what_a_command_left_that_was_killed_at_once_does_not_disturb(everybody, tmp_path):
    arguments, expected = everybody
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / ".lists.json.a1b2c3_4.tmp").write_text("{")
    assert call(cli.recommend, *arguments, "--parts", 4).exit_code == 0
    assert_same(read(tmp_path / "lists"), expected)


def test_a_stopped_command_goes_on(everybody, tmp_path):
    arguments, expected = everybody
    folder = tmp_path / "lists"
    first = call(cli.recommend, *arguments, "--parts", 4)
    assert first.exit_code == 0, first.output
    assert_same(read(folder), expected)
    files = sorted(folder.glob("part-*.parquet"))
    assert 1 < len(files) <= 4 and f"{len(files)} files written" in first.stdout
    files[0].unlink()
    before = files[1].stat().st_mtime_ns
    again = call(cli.recommend, *arguments, "--parts", 4)
    assert f"1 file written; {len(files) - 1} were there already" in again.stdout
    assert files[1].stat().st_mtime_ns == before
    assert_same(read(folder), expected)


def test_processes_share_the_files(everybody, tmp_path, monkeypatch):
    arguments, expected = everybody
    monkeypatch.setenv("WORLD_SIZE", "2")
    written = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert call(cli.recommend, *arguments, "--parts", 4).exit_code == 0
        written.append({path.name for path in (tmp_path / "lists").glob("part-*")})
    assert written[0] < written[1]
    assert_same(read(tmp_path / "lists"), expected)
    message = "several processes need --parts"
    assert_fails(cli.recommend, *arguments, message=message, code=(2,))


def test_lists_of_something_else_are_not_mixed_in(everybody, tmp_path):
    arguments, _ = everybody
    assert call(cli.recommend, *arguments, "--parts", 2).exit_code == 0
    message = "holds lists of another run or with other options"
    for other in (("--parts", 3), ("--parts", 2, "--aversion", 3), ("--parts", 2, "-k", 2)):
        assert_fails(cli.recommend, *arguments, *other, message=message, code=(2,))
    (tmp_path / "lists" / "lists.json").unlink()
    message = "is not empty; give a new folder"
    assert_fails(cli.recommend, *arguments, "--parts", 2, message=message, code=(2,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--parts", 2), "--parts needs --output FOLDER, and --format"),
        (("--parts", 2, "--output", "x"), "--parts needs --output FOLDER, and --format"),
        (("--parts", 2, "--output", "x", "--format", "table"), "--parts needs"),
        (("--parts", 2, "--output", __file__, "--format", "csv"), "is a file; give a folder"),
        (("--output", ".", "--format", "csv"), "is a folder; give a file"),
        (("--parts", 0), "0 is not in the range"),
    ],
)
def test_wrong_options(trained, options, message):
    assert_fails(cli.recommend, trained[0], "--all-users", *options, message=message, code=(2,))


def test_the_content_of_files_counts(everybody, tmp_path):
    arguments, _ = everybody
    (tmp_path / "items.txt").write_text("東京 1\n", encoding="utf-8")
    filtered = (*arguments, "--parts", 2, "--exclude", tmp_path / "items.txt")
    first = call(cli.recommend, *filtered)
    assert first.exit_code == 0, first.output
    assert "東京 1" not in set(read(tmp_path / "lists")["item"])
    assert call(cli.recommend, *filtered).exit_code == 0
    (tmp_path / "items.txt").write_text("東京 2\n", encoding="utf-8")
    message = "holds lists of another run or with other options"
    assert_fails(cli.recommend, *filtered, message=message, code=(2,))
