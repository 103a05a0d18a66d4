from __future__ import annotations

import re
import tomllib

from emorec import cli
from emorec.data.datasets import load_dataset
from emorec.data.readers import read_interactions
from emorec.data.registry import DATASETS
from tests.cli.commands import TINY, assert_fails, call, log_lines, write_log


def test_the_printed_settings_train(tmp_path, monkeypatch):
    lines = [line.rpartition(",")[0] for line in log_lines()]  # without times
    lines = [line.replace(",3", ",7") for line in lines]  # not stars
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "log.csv", lines, "Kunde,Film,Note")
    text = call(cli.main, "data", "describe", "log.csv").stdout
    config, rules = re.findall(r"\.toml:\n\n(.*?)\n\n(?=\S+\.toml:|Train)", text, re.DOTALL)
    (tmp_path / "config.toml").write_text(config, encoding="utf-8")
    (tmp_path / "rules.toml").write_text(rules, encoding="utf-8")
    assert tomllib.loads(config)["data"]["item_column"] == "Film"
    assert text.endswith("Train with:\n  emorec-train --config config.toml\n")
    arguments = ["--config", "config.toml", "--epochs", 1, "--run-dir", "run", *TINY]
    result = call(cli.train, *arguments)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "results.json").exists()


def test_describe_writes_both_files(tmp_path):
    log = write_log(tmp_path / "log.csv", log_lines())
    result = call(cli.main, "data", "describe", log, "--output", tmp_path / "my log")
    assert result.exit_code == 0, result.output
    assert "rules: 'ratings', as these look like stars" in result.stdout
    assert f"emorec-train --config '{tmp_path}/my log/config.toml'" in result.stdout
    assert [path.name for path in (tmp_path / "my log").iterdir()] == ["config.toml"]


def test_describe_fails_on_what_it_cannot_guess(tmp_path):
    log = write_log(tmp_path / "log.csv", ["1,5", "2,4"], "user_id,rating")
    message = "not everything could be guessed"
    result = assert_fails(cli.main, "data", "describe", log, message=message)
    assert "give --set data.item_column=NAME" in result.stdout
    assert_fails(cli.main, "data", "describe", tmp_path / "no.csv", message="no.csv")
    wrong = ["data", "describe", log, "--set", "split.n=2"]
    assert_fails(cli.main, *wrong, message="only settings of the section data")


def test_list():
    text = call(cli.main, "data", "list").stdout
    for dataset in DATASETS.values():
        assert dataset.name in text and dataset.terms in text and dataset.citation in text


def test_fetch(tmp_path):
    (tmp_path / "u.data").write_text("1\t2\t3\t4\n")
    result = call(cli.main, "data", "fetch", "ml-100k", "--data-dir", tmp_path)
    where, terms, _ = result.stdout.splitlines()
    assert where == str(tmp_path / "u.data") and "no redistribution" in terms
    assert_fails(cli.main, "data", "fetch", "ml-100", message="ml-100k")
    assert_fails(cli.main, "data", "fetch", "synthetic", message="emorec data synthetic")


def test_synthetic(tmp_path):
    path = tmp_path / "log.csv"
    assert call(cli.main, "data", "synthetic", "--output", path).exit_code == 0
    log, _ = read_interactions(path)
    expected = load_dataset("synthetic")
    assert log.users.lookup(log.user) == expected.users.lookup(expected.user)
    assert log.items.lookup(log.item) == expected.items.lookup(expected.item)
    assert (log.feedback == expected.feedback).all() and (log.time == expected.time).all()
    few = ["data", "synthetic", "--output", path, "--users", 3, "--items", 200, "--seed", 1]
    assert "of 3 users" in call(cli.main, *few).stdout
    assert_fails(cli.main, *few[:-3], 5, "--seed", 1, message="num_items must be at least")
