from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from packaging.version import Version
from safetensors.torch import save_file

from emorec import EmoRec, recommender
from emorec.baselines import MostPop
from emorec.config import ConfigError
from emorec.data.splits import Split, split_interactions
from emorec.data.synthetic import generate
from emorec.data.titles import Titles
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.top_k import evaluate, excluded_items, recommend_top_k
from emorec.recommender import NotFittedError
from emorec.storage.files import FileError
from emorec.storage.tensors import load_tensors, save_tensors
from emorec.training.loop import train
from tests.small import held, small_config, small_log

LOG = generate(num_users=40, num_items=50, num_topics=8, events_per_user=12).interactions
OTHER_LOG = replace(LOG, item=(LOG.item + 7) % LOG.num_items)
CONFIG = small_config("training.epochs=1")
USERS = LOG.users.ids
# Before, filelock empties the file of a lock that another one holds.
KEEPS_LOCKS = Version(filelock.__version__) >= Version("4")


@pytest.fixture(scope="module")
def fitted():
    return EmoRec(config=CONFIG).fit(LOG, progress=False)


@pytest.fixture(scope="module")
def saved(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fitted.save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a saved run, to damage."""
    return shutil.copytree(saved, tmp_path / "run")


class TestFit:
    def test_by_preset_and_settings(self):
        recommender = EmoRec("diff-gat", "training.epochs=3", "model.embedding_size=4")
        assert recommender.config.preset == "diff-gat"
        assert recommender.config.training.epochs == 3
        with pytest.raises(ConfigError, match="did you mean 'diff-gat'"):
            EmoRec("diffgat")

    def test_either_a_preset_or_a_whole_config(self):
        message = "either a preset and settings or a whole config, got 'emorec' and a config"
        with pytest.raises(ValueError, match=message):
            EmoRec("emorec", config=CONFIG)

    @pytest.mark.filterwarnings("ignore:.*this rule matches no row")
    def test_a_log_without_times_is_told(self):
        frame = pd.DataFrame({"user_id": np.arange(40) % 5, "item_id": np.arange(40) % 8})
        config = CONFIG.with_settings("data.time_column=", "training.epochs=1")
        with pytest.warns(UserWarning, match="no times: the order of rows is that of events"):
            EmoRec(config=config).fit(frame.assign(rating=5), progress=False)

    @pytest.mark.parametrize("wrong", [{"training.epochs": 2}, ["training.epochs=2"], 7])
    def test_settings_that_are_no_texts(self, wrong):
        with pytest.raises(ConfigError, match="a text such as 'training.epochs=20', got"):
            EmoRec("emorec", wrong)

    @pytest.mark.parametrize("wrong", [None, [1, 2], {}, 7])
    def test_what_is_no_log(self, wrong):
        with pytest.raises(TypeError, match="a log is a DataFrame .*; got"):
            EmoRec(config=CONFIG).fit(wrong)

    def test_on_interactions_holds_out_for_validation_only(self, fitted):
        split = fitted.split
        assert len(split.train) + len(split.valid) == len(LOG)
        assert len(split.test) == 0
        assert len(fitted.records) == 1
        assert 0 < fitted.records[0].valid["ndcg"] < 1

    def test_on_a_data_frame(self):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(
            {
                "user_id": [f"Zoë {u}" for u in np.repeat(np.arange(12), 10)],
                "item_id": rng.integers(100, 130, 120),
                "rating": np.tile([5, 4, 3, 2, 1], 24),
                "timestamp": 1_600_000_000 + 60 * np.arange(120),
            }
        )
        recommender = EmoRec(config=CONFIG).fit(frame, progress=False)
        lists = recommender.recommend(["Zoë 3", "Zoë 11"], k=4)
        assert lists["user"].tolist() == ["Zoë 3"] * 4 + ["Zoë 11"] * 4
        for user in ("Zoë 3", "Zoë 11"):
            known = set(frame.item_id[frame.user_id == user])
            assert not known & set(lists["item"][lists["user"] == user])

    def test_histories_too_short_for_validation(self):
        log = small_log([(user, item, 0, item) for user in range(4) for item in range(3)], 4, 3)
        with pytest.warns(
            UserWarning,
            match=r"no validation data, so training runs for 2 epochs: histories are too sh",
        ):
            recommender = EmoRec(config=small_config()).fit(log, progress=False)
        assert len(recommender.records) == 2

    @pytest.mark.parametrize(("users", "items", "few"), [(1, 5, "1 user"), (5, 1, "1 item")])
    def test_a_log_without_a_choice(self, users, items, few):
        rows = [(user, item, 0, item) for user in range(users) for item in range(items)]
        with pytest.raises(ValueError, match=f"the log has {few} only; .* at least two users"):
            EmoRec(config=CONFIG).fit(small_log(rows, users, items), progress=False)

    def test_no_validation_part_by_time(self):
        log = small_log([(user, item, 0, 7) for user in range(4) for item in range(3)], 4, 3)
        config = small_config("training.epochs=1", "split.method=time", "split.quantile=0.7")
        with pytest.warns(
            UserWarning, match=r"no row is late enough; lower split.quantile \(now 0.7\)"
        ):
            EmoRec(config=config).fit(log, progress=False)

    def test_the_newest_day_is_held_out(self):
        day = 86_400
        rows = [(user, item, 0, item * day) for user in range(4) for item in range(4)]
        rows += [(user, 0, 0, 3 * day) for user in range(4)]
        config = small_config("training.epochs=1", "split.method=time", "split.days=0.5")
        recommender = EmoRec(config=config).fit(small_log(rows, 4, 4), progress=False)
        assert len(recommender.records) == 1
        assert recommender.records[0].valid["ndcg"] >= 0
        with pytest.warns(UserWarning, match=r"others lack; lower split.days \(now 0.5\)"):
            EmoRec(config=config).fit(small_log(rows[:16], 4, 4), progress=False)

    @pytest.mark.parametrize(
        ("method", "advice"),
        [("leave_last_out", r"lower split.n \(now 1\)"), ("time", r"raise split.quantile \(now")],
    )
    def test_a_validation_part_of_strangers(self, method, advice):
        rows = [(user, item, 0, item) for user in range(4) for item in range(3)]
        rows += [(user, 3 + user, 0, 9) for user in range(4)]  # each one's last item is new
        config = small_config("training.epochs=1", f"split.method={method}", "split.n=1")
        config = config.with_settings("split.quantile=0.7")
        with pytest.warns(UserWarning, match=f"all 4 held-out rows are of .* lack; {advice}"):
            EmoRec(config=config).fit(small_log(rows, 4, 7), progress=False)

    def test_rows_that_are_left_out_are_counted(self, tmp_path):
        frame = pd.DataFrame(
            {
                "user_id": [row % 5 for row in range(40)],
                "item_id": [row % 8 for row in range(40)],
                "rating": [None if row % 4 == 3 else 3 if row % 7 == 3 else 5 for row in range(40)],
                "timestamp": range(40),
            }
        )
        rules = tmp_path / "rules.toml"
        rules.write_text('explicit_positive = "rating == 5"')
        config = CONFIG.with_settings(f"data.rules={rules}")
        with pytest.warns(UserWarning) as caught:
            EmoRec(config=config).fit(frame, progress=False)
        texts = [str(warning.message) for warning in caught]
        expected = "the DataFrame: 14 of 40 rows are left out: 10 not rated, 4 no rule matches"
        assert expected in texts
        assert [w.filename for w in caught if str(w.message) == expected] == [__file__]

    def test_the_network_is_ready_for_use(self, fitted, saved):
        assert not fitted.model.training
        assert not EmoRec.load(saved).model.training

    def test_a_data_frame_without_a_column(self):
        with pytest.raises(ValueError, match="user_id"):
            EmoRec(config=CONFIG).fit(pd.DataFrame({"item_id": [1]}), progress=False)

    def test_refit_goes_on_with_the_held_out_part_too(self):
        config = small_config("training.refit=0.6")
        recommender = EmoRec(config=config).fit(LOG, progress=False)
        chosen = max(recommender.records[:2], key=lambda record: record.valid["ndcg"]).epoch
        refitted = recommender.records[2:]
        assert [record.epoch for record in refitted] == [1, 2][: math.ceil(0.6 * chosen)]
        assert all(record.valid == {} for record in refitted)
        before = EmoRec(config=small_config()).fit(LOG, progress=False)
        nothing = LOG.select(np.zeros(0, dtype=np.int64))
        epochs = {"encoders": len(refitted)}
        train(before.model, config, before.split.history, nothing, progress=False, again=epochs)
        pd.testing.assert_frame_equal(before.recommend(USERS), recommender.recommend(USERS))

    def test_without_a_graph_it_does_not_matter_what_that_informs(self):
        config = small_config(
            "graph.conv=none",
            "graph.informs=polarity",
            "model.polarity=none",
            "model.aversion=0",
            "training.epochs=1",
            "training.refit=0",
            preset="emorec",
        )
        assert len(EmoRec(config=config).fit(LOG, progress=False).recommend(USERS[:1])) == 10

    def test_more_epochs_after_a_refit_are_those_of_an_unbroken_run(self, tmp_path):
        def fitted(epochs, checkpoint):
            config = small_config(
                f"training.epochs={epochs}", "training.refit=1", "training.seed=1"
            )
            recommender = EmoRec(config=config)
            return recommender.fit(LOG, checkpoint=tmp_path / checkpoint, progress=False)

        fitted(1, "resumed.safetensors")
        resumed, unbroken = fitted(3, "resumed.safetensors"), fitted(3, "unbroken.safetensors")
        assert len(unbroken.records) > 4  # another epoch than the first is chosen by then
        assert [r.loss for r in resumed.records] == [r.loss for r in unbroken.records]
        pd.testing.assert_frame_equal(resumed.recommend(USERS), unbroken.recommend(USERS))

    def test_settings_of_data_and_machine_count_here_too(self):
        threads = torch.get_num_threads()
        rows = [(user, item, 0, 1000 * item + user) for user in range(8) for item in range(7)]
        log = small_log([*rows, (0, 7, 0, 9000), (8, 0, 0, 9001)], num_users=9, num_items=8)
        config = small_config("training.epochs=1", "training.threads=1")
        config = config.with_settings("data.min_user_events=2", "data.min_item_events=2")
        try:
            torch.set_num_threads(2)
            used = []
            recommender = EmoRec(config=config).fit(
                log, on_epoch=lambda _: used.append(torch.get_num_threads()), progress=False
            )
            assert used == [1]
            assert torch.get_num_threads() == 2  # as before
        finally:
            torch.set_num_threads(threads)
        train = recommender.split.train
        assert (train.num_users, train.num_items) == (8, 7)

    def test_before_fitting(self):
        recommender = EmoRec()
        for ask in (
            lambda: recommender.recommend(["a"]),
            lambda: recommender.model,
            lambda: recommender.split,
            lambda: recommender.scorer(),
        ):
            with pytest.raises(NotFittedError, match=r"call fit\(\) or load\(\) first"):
                ask()

    def test_before_fitting_nothing_is_saved(self, tmp_path):
        with pytest.raises(NotFittedError):
            EmoRec().save(tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestSaveAndLoad:
    def test_a_file_in_the_folders_place_stays(self, fitted, tmp_path):
        path = tmp_path / "model.bin"
        path.write_text("mine")
        with pytest.raises(ValueError, match="model.bin is a file; a model is a folder"):
            fitted.save(path)
        assert path.read_text() == "mine"

    def test_the_same_lists(self, fitted, saved):
        loaded = EmoRec.load(saved)
        assert loaded.config == fitted.config
        users = [*USERS, "a stranger"]
        pd.testing.assert_frame_equal(loaded.recommend(users), fitted.recommend(users))

    @pytest.mark.parametrize("preset", [None, "emorec-graph", "diff-gat", "base-gat"])
    def test_another_backend_gives_the_same_lists(self, tmp_path, preset):
        pytest.importorskip("dgl")
        config = small_config("training.epochs=1", preset=preset)
        EmoRec(config=config).fit(LOG, progress=False).save(tmp_path)
        one, other = EmoRec.load(tmp_path), EmoRec.load(tmp_path, backend="dgl")
        assert other.config.model.backend == "dgl"
        ours, theirs = one.recommend(USERS, k=5), other.recommend(USERS, k=5)
        assert ours["item"].tolist() == theirs["item"].tolist()
        np.testing.assert_allclose(ours["score"], theirs["score"], rtol=1e-4, atol=1e-4)

    def test_on_another_device(self, fitted, saved, tmp_path):
        folder = shutil.copytree(saved, tmp_path / "run")
        config = (folder / "config.toml").read_text()
        (folder / "config.toml").write_text(config.replace('device = "cpu"', 'device = "cuda:99"'))
        (folder / "manifest.json").unlink()
        with pytest.raises(ConfigError, match="device is 'cuda:99', but PyTorch finds .* CUDA dev"):
            EmoRec.load(folder)
        lists = EmoRec.load(folder, device="cpu").recommend(USERS)
        pd.testing.assert_frame_equal(lists, fitted.recommend(USERS))

    def test_another_aversion_may_be_chosen(self, fitted, saved):
        own = fitted.config.model.aversion
        assert EmoRec.load(saved).model.aversion == own > 0
        one, other = (EmoRec.load(saved, aversion=value) for value in (own, 50.0))
        assert one.recommend(USERS)["item"].tolist() == fitted.recommend(USERS)["item"].tolist()
        assert other.recommend(USERS)["item"].tolist() != fitted.recommend(USERS)["item"].tolist()

    def test_aversion_of_a_model_that_knows_no_polarity(self, tmp_path):
        EmoRec(config=small_config("training.epochs=1", preset="diff-gat")).fit(
            LOG, progress=False
        ).save(tmp_path)
        with pytest.raises(ConfigError, match="aversion is 2.0, which needs model.polarity 'item'"):
            EmoRec.load(tmp_path, aversion=2.0)

    def test_saving_again_over_an_old_run(self, fitted, folder):
        fitted.save(folder)
        pd.testing.assert_frame_equal(EmoRec.load(folder).recommend(USERS), fitted.recommend(USERS))

    def test_a_full_disk_keeps_the_old_run(self, fitted, folder, monkeypatch):
        before = EmoRec.load(folder).recommend(USERS)

        def no_space(*_args, **_options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr("emorec.storage.tensors.save_file", no_space)
            fitted.save(folder)
        assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
        pd.testing.assert_frame_equal(EmoRec.load(folder).recommend(USERS), before)

    # The files are saved in this order: a mix of both models has parameters that fit either log.
    @pytest.mark.parametrize("failing", [1, 2])
    def test_a_disk_that_fills_later_keeps_the_old_model(self, fitted, tmp_path, failing):
        other = EmoRec(config=CONFIG).fit(OTHER_LOG, progress=False)
        fitted.save(tmp_path)
        done = []

        def fails(*args, **options):
            done.append(args)
            if len(done) == failing:
                raise OSError(28, "No space left on device")
            return save_file(*args, **options)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr("emorec.storage.tensors.save_file", fails)
            other.save(tmp_path)
        loaded = EmoRec.load(tmp_path)
        assert np.array_equal(loaded.split.train.item, fitted.split.train.item)
        pd.testing.assert_frame_equal(loaded.recommend(USERS), fitted.recommend(USERS))
        other.save(tmp_path)
        loaded = EmoRec.load(tmp_path)
        assert np.array_equal(loaded.split.train.item, other.split.train.item)
        assert not list(tmp_path.glob(".w*")) + list(tmp_path.glob("*.tmp"))

    @pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs limits on files")
    def test_a_disk_that_is_really_full(self, fitted, saved, tmp_path):
        """The system refuses to write more than some bytes into a file."""
        folder = shutil.copytree(saved, tmp_path / "run")
        size = (folder / "model.safetensors").stat().st_size
        program = f"""
import resource, signal
from emorec import EmoRec
model = EmoRec.load({str(folder)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))
try:
    model.save({str(folder)!r})
except OSError as error:
    print("refused:", error)
"""
        root = Path(__file__).parents[1]
        command = [sys.executable, "-c", program]
        found = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
        assert found.stdout.startswith("refused:")
        pd.testing.assert_frame_equal(EmoRec.load(folder).recommend(USERS), fitted.recommend(USERS))
        assert not list(folder.glob(".w*"))

    def test_files_of_two_models_are_refused(self, fitted, folder, tmp_path):
        other = tmp_path / "other"
        EmoRec(config=CONFIG).fit(OTHER_LOG, progress=False).save(other)
        for name in ("config.toml", "vocabulary.json", "interactions.safetensors"):
            shutil.copy(other / name, folder / name)
        with pytest.raises(FileError, match="interactions.safetensors: .* is of another save than"):
            EmoRec.load(folder)

    @pytest.mark.parametrize("name", ["load_split", "build_model", "load_parameters"])
    def test_a_model_that_is_saved_while_another_is_read(self, fitted, folder, monkeypatch, name):
        """Each file is right by the manifest of its time; together they would be a mix."""
        original = getattr(recommender, name)
        other = EmoRec(config=CONFIG).fit(OTHER_LOG, progress=False)

        def meanwhile(*args):
            monkeypatch.undo()
            other.save(folder)
            return original(*args)

        monkeypatch.setattr(recommender, name, meanwhile)
        with pytest.raises(FileError, match="another model was saved there just now; load"):
            EmoRec.load(folder)

    def test_files_of_somebody_else_stay(self, fitted, tmp_path):
        for name in ("report.html", "rules.toml", "results.json"):
            (tmp_path / name).write_text("mine")
        fitted.save(tmp_path)
        EmoRec.load(tmp_path)
        for name in ("report.html", "rules.toml", "results.json"):
            assert (tmp_path / name).read_text() == "mine"

    def test_a_model_without_a_manifest_loads_with_a_warning(self, fitted, folder):
        (folder / "manifest.json").unlink()
        with pytest.warns(UserWarning, match="holds no manifest.json: whether its files belong"):
            loaded = EmoRec.load(folder)
        pd.testing.assert_frame_equal(loaded.recommend(USERS), fitted.recommend(USERS))
        loaded.save(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            EmoRec.load(folder)

    def test_not_into_a_folder_where_another_trains(self, fitted, folder):
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        holder = "this" if KEEPS_LOCKS else "a"
        with held(folder):
            with pytest.raises(FileError, match=f"is being written by {holder} process; wait"):
                fitted.save(folder)
            with pytest.raises(FileError, match="is being written by"):
                EmoRec(config=CONFIG).fit(LOG, checkpoint=folder / "c", progress=False)
        after = {path.name: path.read_bytes() for path in folder.iterdir()}
        if not KEEPS_LOCKS:
            after[".lock"] = before[".lock"]
        assert after == before

    def test_a_report_of_another_model_does_not_stay(self, fitted, folder):
        for name in ("results.json", "report.html", "metrics.jsonl"):
            (folder / name).write_text("{}")
        fitted.save(folder)
        assert not {"results.json", "report.html", "metrics.jsonl"} & set(os.listdir(folder))

    def test_similar_items_outside_of_the_catalogue(self, tmp_path):
        config = small_config("training.epochs=1", "graph.paths=3", preset="emorec")
        EmoRec(config=config).fit(LOG, progress=False).save(tmp_path)
        (tmp_path / "manifest.json").unlink()
        path = tmp_path / "model.safetensors"
        tensors, about = load_tensors(path)
        tensors["feedback_paths.item"][0, 0] = 50
        save_tensors(path, tensors, about)
        with pytest.raises(FileError, match="paths.item holds 50, but items are .* 0 to 49"):
            EmoRec.load(tmp_path)

    def test_parameters_that_are_no_numbers(self, folder):
        (folder / "manifest.json").unlink()
        path = folder / "model.safetensors"
        tensors, about = load_tensors(path)
        tensors["item_embedding.weight"][3] = math.nan
        save_tensors(path, tensors, about)
        with pytest.raises(FileError, match="item_embedding.weight holds NaN"):
            EmoRec.load(folder)

    def test_unknown_backend(self, saved):
        with pytest.raises(
            ConfigError, match="backend: model.backend is 'jax'.*there are 'auto', 'dgl', 'torch'"
        ):
            EmoRec.load(saved, backend="jax")

    @pytest.mark.parametrize(
        "name",
        ["config.toml", "vocabulary.json", "interactions.safetensors", "model.safetensors"],
    )
    def test_a_missing_file(self, folder, name):
        (folder / name).unlink()
        with pytest.raises(FileError, match=f"{name} is missing"):
            EmoRec.load(folder)

    def test_a_damaged_model(self, folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(FileError, match="model.safetensors: is damaged"):
            EmoRec.load(folder)

    def test_parameters_of_another_shape(self, folder):
        config = folder / "config.toml"
        text = config.read_text()
        assert "embedding_size = 8" in text
        config.write_text(text.replace("embedding_size = 8", "embedding_size = 4"))
        (folder / "manifest.json").unlink()
        with pytest.raises(FileError, match="model.safetensors: does not fit config.toml"):
            EmoRec.load(folder)


def test_the_future_changes_no_recommendation():
    """Whatever is in the test split, lists and scores stay the same."""
    split = split_interactions(LOG, n=3)
    rng = np.random.default_rng(0)
    test = split.test
    order = rng.permutation(len(test))
    permuted = replace(
        split, test=replace(test, item=test.item[order], feedback=test.feedback[order][::-1].copy())
    )
    assert not np.array_equal(permuted.test.item, test.item)
    users = split.train.users.ids
    one, other = (
        EmoRec(config=CONFIG).fit(part, progress=False).recommend(users, k=20, before_test=True)
        for part in (split, permuted)
    )
    pd.testing.assert_frame_equal(one, other)


def test_the_test_part_is_never_looked_at():
    split = split_interactions(LOG, n=3)

    class Forbidden:
        def __getattr__(self, name):
            raise AssertionError(f"test.{name} was read")

        def __len__(self):
            return 1

    blind = Split(split.train, split.valid, Forbidden(), 0)
    config = small_config("training.epochs=1", "training.refit=1")
    users = split.train.users.ids
    one, other = (
        EmoRec(config=config).fit(part, progress=False).recommend(users, before_test=True)
        for part in (split, blind)
    )
    pd.testing.assert_frame_equal(one, other)


ITEMS = pd.DataFrame(
    {"item_id": LOG.items.ids[1:], "title": [f"The {each}" for each in LOG.items.ids[1:]]}
)


@pytest.fixture(scope="module")
def titled():
    """A model with titles of all items but the first."""
    with pytest.warns(UserWarning, match="items: 1 of 50 items has no title, such as"):
        config = small_config("training.epochs=1", preset="emorec")
        return EmoRec(config=config).fit(LOG, items=ITEMS, progress=False)


@pytest.fixture(scope="module")
def loaded(titled, tmp_path_factory):
    folder = tmp_path_factory.mktemp("titled")
    titled.save(folder)
    return EmoRec.load(folder)


class TestTitles:
    def test_of_another_log_are_placed_by_id(self):
        ids = LOG.items.ids
        texts = np.array([f"Title of {each}" for each in ids[::-1]] + ["of none"], dtype=object)
        titles = Titles(texts, Vocabulary([*ids[::-1], "no item"]))
        fitted = EmoRec(config=CONFIG).fit(LOG, items=titles, progress=False)
        assert fitted.titles == {each: f"Title of {each}" for each in fitted.split.log.items.ids}

    ids = LOG.items.ids

    def expected(self, items):
        return [None if item == self.ids[0] else f"The {item}" for item in items]

    def test_are_kept(self, titled, loaded):
        assert titled.titles == {each: f"The {each}" for each in self.ids[1:]}
        assert loaded.titles == titled.titles

    def test_in_lists(self, loaded):
        lists = loaded.recommend([*USERS[:2], "nobody"], k=50)
        assert lists.columns.tolist() == [
            "user", "rank", "item", "title", "score", "liked", "source"
        ]  # fmt: skip
        assert lists["title"].tolist() == self.expected(lists["item"])
        assert self.ids[0] in set(lists["item"])
        blocks = pd.concat(loaded.recommend_in_blocks(USERS[:2], k=50, block=1))
        assert blocks["title"].tolist() == lists["title"].tolist()[: len(blocks)]
        assert loaded.recommend([]).columns.tolist() == lists.columns.tolist()

    def test_in_scores(self, loaded):
        items = [self.ids[1], self.ids[0], "nothing"]
        scores = loaded.score([(USERS[0], item) for item in items])
        assert scores.columns.tolist()[:4] == ["user", "item", "title", "score"]
        assert scores["title"].tolist() == [f"The {self.ids[1]}", None, None]

    def test_in_similar_items(self, loaded):
        found = loaded.similar_items(self.ids[1:3], k=3, by="taste")
        assert found.columns.tolist() == [
            "item", "title", "rank", "similar", "similar_title", "similarity"
        ]  # fmt: skip
        assert found["title"].tolist() == self.expected(found["item"])
        assert found["similar_title"].tolist() == self.expected(found["similar"])
        assert "title" not in loaded.similar_users(USERS[:1], by="taste")

    def test_by_settings(self, tmp_path):
        path = tmp_path / "names.jsonl"
        frame = pd.DataFrame({"sku": self.ids, "name": [f"The {each}" for each in self.ids]})
        frame.to_json(path, orient="records", lines=True)
        config = small_config(
            "training.epochs=1", f"data.items={path}", "data.item_column=sku",
            "data.title_column=name",
        )  # fmt: skip
        fitted = EmoRec(config=config).fit(LOG, progress=False)
        assert fitted.titles[self.ids[0]] == f"The {self.ids[0]}"
        fitted.save(tmp_path / "run")
        path.unlink()  # a run has its own copy
        assert EmoRec.load(tmp_path / "run").titles == fitted.titles

    def test_without(self, fitted, saved):
        assert fitted.titles == EmoRec.load(saved).titles == {}
        assert not (saved / "titles.json").exists()
        assert "title" not in fitted.recommend(USERS[:1])

    def test_of_an_earlier_model_do_not_stay(self, titled, fitted, tmp_path):
        titled.save(tmp_path)
        fitted.save(tmp_path)
        assert EmoRec.load(tmp_path).titles == {}

    def test_that_were_changed_are_refused(self, titled, tmp_path):
        titled.save(tmp_path)
        path = tmp_path / "titles.json"
        path.write_text(path.read_text().replace("The", "A"))
        with pytest.raises(FileError, match="titles.json: is damaged, was changed"):
            EmoRec.load(tmp_path)
        path.unlink()
        with pytest.raises(FileError, match="titles.json is missing"):
            EmoRec.load(tmp_path)

    def test_before_fitting(self):
        with pytest.raises(NotFittedError):
            _ = EmoRec().titles

    def test_nothing_is_trained_with_titles_that_cannot_be_used(self):
        with pytest.raises(ValueError, match="there is no column 'title'"):
            EmoRec(config=CONFIG).fit(LOG, items=ITEMS[["item_id"]], progress=False)


class TestGraphAlone:
    SETTINGS = "training.epochs=20", "training.batch_size=64", "training.threads=1"

    def fitted(self, *settings):
        log = generate(num_users=300, num_items=120, num_topics=8, events_per_user=25).interactions
        split = split_interactions(log, n=5)
        config = small_config(*self.SETTINGS, *settings, preset="emorec-graph")
        return EmoRec(config=config).fit(split, progress=False), split

    def test_is_better_than_the_most_popular(self):
        fitted, split = self.fitted()
        users = np.unique(split.test.user)

        def ndcg(scorer):
            topk = recommend_top_k(scorer, users, excluded_items(split.history, "exclude"), 10)
            return evaluate(topk, users, split.test, 10).summary()["ndcg_likes"]

        assert ndcg(fitted.scorer()) > 1.3 * ndcg(MostPop().fit(split.history))

    def test_a_new_user_gets_the_lists_of_a_trained_one_who_did_the_same(self):
        fitted, split = self.fitted("training.epochs=2")
        known = split.log.users.ids[3]
        own = split.history.of_users(np.array([3]))
        events = pd.DataFrame(
            {
                "user_id": "somebody new",
                "item_id": split.history.items.lookup(own.item),
                "rating": np.array([5, 4, 3, 1])[own.feedback],
                "timestamp": own.time,
            }
        )
        lists = fitted.recommend([known, "somebody new"], events=events, before_test=True)
        one, other = (lists[lists["user"] == user] for user in (known, "somebody new"))
        assert one["item"].tolist() == other["item"].tolist()
        np.testing.assert_allclose(one["score"], other["score"], rtol=1e-5)
        assert set(other["source"]) == {"model"}
