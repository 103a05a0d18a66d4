from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from emorec import EmoRec, Interactions, cli
from tests.cli.commands import assert_fails, call
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
        assert set(found) == {"emorec", "MostPop", "ItemKNN", "MeanReaction"}
        assert 0 < found["MeanReaction"]["brier_score"] < 1
        assert 0 <= found["emorec"]["recall_any"] <= 1
        assert 0 < found["emorec"]["brier_score"] < 1
        at_ten = json.loads(call(cli.evaluate, folder, "--json").stdout)
        kept = json.loads((folder / "results.json").read_text())["models"]
        assert at_ten["emorec"]["ndcg_any"] == pytest.approx(kept["emorec"]["ndcg_any"])

    def test_aversion_changes_the_lists_of_the_model_alone(self, trained):
        one, other = (
            json.loads(call(cli.evaluate, trained[0], "--json", "--aversion", value).stdout)
            for value in (0, 50)
        )
        assert one["MostPop"] == other["MostPop"]
        assert one["emorec"] != other["emorec"]

    @pytest.mark.parametrize("value", ["-1", "nan"])
    def test_an_aversion_that_is_none(self, trained, value):
        for command, arguments in ((cli.evaluate, []), (cli.recommend, ["--user", "a"])):
            assert_fails(
                command, trained[0], *arguments, "--aversion", value,
                message=f"aversion: model.aversion must be at least 0, got {value}",
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

    def test_a_run_that_is_not_finished(self, trained, tmp_path):
        folder = shutil.copytree(trained[0], tmp_path / "run")
        (folder / "model.safetensors").unlink()
        assert_fails(cli.evaluate, folder, message=f"go on with emorec-train --resume {folder}")
        (folder / "checkpoint.safetensors").unlink()
        assert_fails(cli.evaluate, folder, message="model.safetensors is missing .the folder")

    def test_a_run_without_a_test_part(self, tmp_path):
        log = Interactions.from_columns(
            np.repeat(["a", "b"], 9), np.arange(18) % 7, [0] * 18, np.arange(18)
        )
        EmoRec(config=small_config()).fit(log, progress=False).save(tmp_path)
        assert_fails(cli.evaluate, tmp_path, message="holds no test part")
