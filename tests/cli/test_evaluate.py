from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from emorec import EmoRec, Interactions, cli
from emorec.baselines.tuned import names_for
from emorec.run_folder import load_split, save_split
from tests.cli.commands import TINY, assert_fails, call
from tests.small import small_config


class TestEvaluate:
    def test_the_same_table_as_training(self, trained):
        folder, training_result = trained
        result = call(cli.evaluate, folder)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() in training_result.stdout

    def test_json(self, trained):
        folder, _ = trained
        result = call(cli.evaluate, folder, "--json", "-k", 3)
        found = json.loads(result.stdout)
        assert set(found) == {"emorec", *names_for(8), "ItemPrior"}
        assert found["ItemKNN"]["settings"].keys() == {"neighbours", "shrink"}
        assert 0 < found["ItemPrior"]["brier_score"] < 1
        assert 0 <= found["emorec"]["recall_any"] <= 1
        assert 0 < found["emorec"]["brier_score"] < 1
        at_ten = json.loads(call(cli.evaluate, folder, "--json").stdout)
        kept = json.loads((folder / "results.json").read_text())["models"]
        assert at_ten["emorec"]["ndcg_any"] == pytest.approx(kept["emorec"]["ndcg_any"])

    def test_says_which_runs_are_given_the_time_of_held_out_events(self, trained, tmp_path):
        data, folder = trained[0].parent / "log.csv", tmp_path / "timed"
        timed = "--set", "sequence.request_time=true"
        arguments = "--dataset", data, "--epochs", 1, "--run-dir", folder, *TINY, *timed
        training = call(cli.train, *arguments)
        assert training.exit_code == 0, training.output
        note = "given the time of each user's first held-out event (sequence.request_time)"
        assert f"emorec: {note}; no other row is" in training.stdout
        both = call(cli.evaluate, trained[0], folder)
        assert f"timed: {note}; no other row is" in both.stdout
        found = json.loads(call(cli.evaluate, trained[0], folder, "--json").stdout)["models"]
        assert {name for name in found if "request_time" in found[name]} == {"timed"}
        assert found["timed"]["request_time"] is True
        assert note not in call(cli.evaluate, trained[0]).stdout

    def test_aversion_changes_the_lists_of_the_model_alone(self, trained):
        one, other = (
            json.loads(call(cli.evaluate, trained[0], "--json", "--aversion", value).stdout)
            for value in (0, 50)
        )
        assert one["MostPop"] == other["MostPop"]
        assert one["emorec"] != other["emorec"]

    @pytest.mark.parametrize(("value", "right"), [("-1", "at least 0"), ("nan", "finite")])
    def test_an_aversion_that_is_not_valid(self, trained, value, right):
        for command, arguments in ((cli.evaluate, []), (cli.recommend, ["--user", "a"])):
            assert_fails(
                command, trained[0], *arguments, "--aversion", value,
                message=f"aversion: model.aversion must be {right}, got {value}",
            )  # fmt: skip

    def test_another_device(self, trained):
        for command, arguments in ((cli.evaluate, []), (cli.recommend, ["--user", "a"])):
            assert call(command, trained[0], *arguments, "--device", "cpu").exit_code == 0
            assert_fails(
                command, trained[0], *arguments, "--device", "cuda:99",
                message="training.device is 'cuda:99', but PyTorch finds",
            )  # fmt: skip

    @pytest.mark.parametrize("name", ["config.toml", "vocabulary.json", "interactions.safetensors"])
    def test_a_missing_file(self, trained, tmp_path, name):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        (folder / name).unlink()
        for command, arguments in ((cli.evaluate, []), (cli.recommend, ["--user", "a"])):
            assert_fails(command, folder, *arguments, message=f"{name} is missing .the folder")

    @pytest.mark.parametrize(
        "name",
        ["config.toml", "manifest.json", "vocabulary.json", "interactions.safetensors",
         "model.safetensors"],
    )  # fmt: skip
    def test_a_damaged_file(self, trained, tmp_path, name):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        whole = (folder / name).read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        contents = [b"", whole[: len(whole) // 3], whole[:-2]]
        contents += [] if name == "manifest.json" else [bytes(flipped)]
        for content in contents:
            (folder / name).write_bytes(content)
            for command, arguments in ((cli.evaluate, []), (cli.recommend, ["--user", "a"])):
                result = assert_fails(command, folder, *arguments, message=name, code=(1,))
                errors = [each for each in result.stderr.splitlines() if "Error:" in each]
                assert len(errors) == 1 and result.stderr.endswith(errors[0] + "\n")

    def test_lists_that_are_too_long(self, trained):
        assert_fails(cli.evaluate, trained[0], "-k", 10**15, message="not in the range 1<=x<=10000")
        assert call(cli.recommend, trained[0], "--user", "a", "-k", 10**15).exit_code == 0

    def test_a_run_that_is_not_finished(self, trained, tmp_path):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        (folder / "model.safetensors").unlink()
        assert_fails(
            cli.evaluate, folder, message=f"continue it with emorec-train --resume {folder}"
        )
        (folder / "checkpoint.safetensors").unlink()
        assert_fails(cli.evaluate, folder, message="model.safetensors is missing .the folder")

    def test_several_runs(self, trained, tmp_path):
        again = shutil.copytree(trained[0], tmp_path / "again")
        result = call(cli.evaluate, trained[0], again)
        assert result.exit_code == 0, result.output
        rows = [line.split() for line in result.stdout.splitlines()]
        alone = call(cli.evaluate, trained[0]).stdout.splitlines()
        names = ["run", "again", "MostPop", "ItemKNN"]
        assert [row[0] for row in rows[2:6]] == names
        figures = [[cell.rstrip("*+") for cell in row[1:]] for row in rows[4:6]]
        assert figures == [[cell.rstrip("*+") for cell in line.split()[1:]] for line in alone[3:5]]
        assert rows[2][1:] == rows[3][1:]  # of one model
        assert result.stdout.count("MostPop") == 1 + 3
        assert result.stdout.count("ItemKNN: neighbours") == 1
        assert "run against every other model, on the same users" in result.stdout
        for metric in ("any", "likes", "dislikes"):
            line = next(row for row in rows if row[:3] == ["NDCG", metric, "again"])
            assert line[5:] == ["+0.0000", "1.0000", "unclear"]
        assert [row[0] for row in rows[-3:]] == ["run", "again", "ItemPrior"]

    def test_several_runs_as_json(self, trained, tmp_path):
        again = shutil.copytree(trained[0], tmp_path / "again")
        found = json.loads(call(cli.evaluate, trained[0], again, "--json").stdout)
        assert list(found) == ["models", "ours", "differences"]
        assert found["ours"] == "run"
        alone = json.loads(call(cli.evaluate, trained[0], "--json").stdout)
        assert found["models"] == {
            "run": alone["emorec"], "again": alone["emorec"],
            **{name: alone[name] for name in (*names_for(8), "ItemPrior")},
        }  # fmt: skip
        assert len(found["differences"]) == 3 * (1 + len(names_for(8)))
        assert found["differences"][0] == {
            "metric": "ndcg_any", "peer": "again", "users": 6, "difference": 0.0, "p": 1.0,
            "ours": pytest.approx(alone["emorec"]["ndcg_any"]),
            "theirs": pytest.approx(alone["emorec"]["ndcg_any"]), "verdict": "unclear",
        }  # fmt: skip

    @pytest.mark.parametrize("name", ["run", "MostPop"])
    def test_folders_of_one_name_go_by_their_own_folders(self, trained, tmp_path, name):
        first = shutil.copytree(trained[0], tmp_path / "one" / name)
        second = shutil.copytree(trained[0], tmp_path / "two" / name)
        models = json.loads(call(cli.evaluate, first, second, "--json").stdout)["models"]
        assert list(models)[:3] == [f"one/{name}", f"two/{name}", "MostPop"]

    def test_runs_of_other_test_parts(self, trained, tmp_path):
        other = shutil.copytree(trained[0], tmp_path / "other")
        split = load_split(other)
        save_split(other, replace(split, test=split.test.select(np.arange(1, len(split.test)))))
        config = (other / "config.toml").read_text(encoding="utf-8")
        (other / "config.toml").write_text(config.replace("\nn = 2 ", "\nn = 3 "), encoding="utf-8")
        (other / "manifest.json").unlink()
        assert_fails(
            cli.evaluate, trained[0], other,
            message="other cannot be compared with run, because its test split differs: "
            r"11 held-out events, not 12 \(split.n is 3, not 2\)",
        )  # fmt: skip

    def test_one_run_twice(self, trained):
        assert_fails(cli.evaluate, trained[0], trained[0] / ".." / "run", message="is given twice")

    def test_an_error_in_one_of_several_runs_names_it(self, trained, tmp_path):
        again = shutil.copytree(trained[0], tmp_path / "again")
        assert_fails(
            cli.evaluate, again, trained[0], "--aversion", -1, message=f"{again}: aversion: model"
        )

    def test_a_run_without_a_test_part(self, tmp_path):
        log = Interactions.from_columns(
            np.repeat(["a", "b"], 9), np.arange(18) % 7, [0] * 18, np.arange(18)
        )
        EmoRec(config=small_config()).fit(log, progress=False).save(tmp_path)
        assert_fails(cli.evaluate, tmp_path, message="has no test split")
