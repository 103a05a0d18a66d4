from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from emorec.baselines import ItemKNN, MostPop
from emorec.building import build_model
from emorec.config import load_config
from emorec.data.feedback import Feedback
from emorec.data.sequences import EventSequences
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate, shuffled
from emorec.evaluation.top_k import evaluate, recommend_top_k
from emorec.inference.ranking import ModelScorer
from emorec.nn.polarity import ItemPolarity
from emorec.storage.files import FileError
from emorec.storage.tensors import load_tensors, save_tensors
from emorec.training import loop as training
from emorec.training import losses, parts, softmax, validation
from emorec.training.batches import num_batches
from emorec.training.loop import TrainingError, most_epochs, train
from tests.small import interrupt_training, small_config, small_log

LOG = generate(num_users=60, num_items=50, num_topics=8, events_per_user=12).interactions
SPLIT = split_interactions(LOG, n=3)


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def run(config, split=SPLIT, **options):
    """A trained model and its records."""
    model = build_model(config, split.train.num_users, split.train.num_items)
    records = train(model, config, split.train, split.valid_targets, progress=False, **options)
    return model, records


def without_seconds(records):
    return [replace(record, seconds=0.0) for record in records]


def assert_same(one, other):
    """The same parameters, bit by bit."""
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def kill_after(epoch):
    def on_epoch(records):
        if len(records) == epoch:
            raise Killed

    return on_epoch


@pytest.mark.parametrize(
    "preset", [None, "emorec", "emorec-graph", "emo-sage-thp-negatives", "diff-gat", "base-gat"]
)
def test_loss_goes_down_and_records_tell_it(preset):
    settings = "training.epochs=6", "training.patience=9", "graph.learning_rate=0.01"
    config = small_config(*settings, preset=preset)
    seen = []
    _, records = run(config, on_epoch=lambda records: seen.append(len(records)))
    trained = {"emorec": ["graph", "encoders"], "emorec-graph": ["graph"]}
    trained = trained.get(preset, ["encoders"])
    names = [(part, epoch) for part in trained for epoch in range(1, 7)]
    assert [(record.part, record.epoch) for record in records] == names
    assert seen == list(range(1, 1 + len(names)))
    for part in trained:
        own = [record.loss for record in records if record.part == part]
        assert sum(own[-2:]) < 0.98 * sum(own[:2])
    for record in records:
        assert set(record.valid) == {
            "recall", "ndcg", "recall_likes", "ndcg_likes", "ndcg_mean", "disliked_share"
        }  # fmt: skip
        assert 0 <= record.valid["ndcg"] <= 1
        assert record.seconds > 0


class TestSeeds:
    def test_same_seed_same_result(self):
        config = small_config()
        first, records = run(config)
        torch.manual_seed(99)  # of no importance
        np.random.seed(99)
        second, again = run(config)
        assert_same(first, second)
        assert without_seconds(records) == without_seconds(again)

    def test_another_seed_another_result(self):
        one, other = (run(small_config(f"training.seed={s}"))[1] for s in (1, 2))
        assert one[0].loss != other[0].loss

    def test_leaves_the_global_generator_alone(self):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        run(small_config("training.epochs=1"))
        assert torch.equal(torch.get_rng_state(), before)


class TestResume:
    # softmax with two encoders; BPR with sampled dislikes; GAT, some of whose parameters get no
    # gradient and so no moments.
    @pytest.mark.parametrize(
        "preset", [None, "emorec", "emorec-graph", "emo-sage-thp-negatives", "diff-gat"]
    )
    def test_a_killed_run_ends_where_an_undisturbed_one_does(self, tmp_path, preset):
        config = small_config("training.epochs=4", "training.patience=9", preset=preset)
        whole, records = run(config)
        checkpoint = tmp_path / "checkpoint.safetensors"
        with pytest.raises(Killed):
            run(config, checkpoint=checkpoint, on_epoch=kill_after(2))
        resumed, again = run(config, checkpoint=checkpoint)
        assert_same(whole, resumed)
        assert without_seconds(again) == without_seconds(records)

    def test_of_a_model_that_encodes_the_request(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.safetensors"
        config = small_config("training.epochs=4", "sequence.request_time=true")
        whole, records = run(config)
        with pytest.raises(Killed):
            run(config, checkpoint=checkpoint, on_epoch=kill_after(2))
        resumed, again = run(config, checkpoint=checkpoint)
        assert_same(whole, resumed)
        assert without_seconds(again) == without_seconds(records)
        with pytest.raises(FileError):
            run(small_config("training.epochs=4"), checkpoint=checkpoint)

    def test_with_drawn_candidates(self, tmp_path):
        config = small_config("training.epochs=4", "training.patience=9", "loss.negatives=5")
        whole, records = run(config)
        checkpoint = tmp_path / "checkpoint.safetensors"
        with pytest.raises(Killed):
            run(config, checkpoint=checkpoint, on_epoch=kill_after(2))
        resumed, again = run(config, checkpoint=checkpoint)
        assert_same(whole, resumed)
        assert without_seconds(again) == without_seconds(records)
        with pytest.raises(FileError, match="settings"):
            run(small_config("loss.negatives=6"), checkpoint=checkpoint)

    @pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
    def test_killed_in_the_middle_of_an_epoch(self, tmp_path, monkeypatch, error):
        config = small_config("training.epochs=3")
        whole, records = run(config)
        checkpoint = tmp_path / "checkpoint.safetensors"
        after_two = []
        with monkeypatch.context() as patch, pytest.raises(error):
            interrupt_training(patch, 3, error)
            run(
                config,
                checkpoint=checkpoint,
                on_epoch=lambda _: after_two.append(checkpoint.read_bytes()),
            )
        assert checkpoint.read_bytes() == after_two[1]  # that of the last whole epoch
        resumed, again = run(config, checkpoint=checkpoint)
        assert_same(whole, resumed)
        assert without_seconds(again) == without_seconds(records)

    def test_a_finished_run_is_not_trained_again(self, tmp_path):
        config = small_config()
        checkpoint = tmp_path / "checkpoint.safetensors"
        first, records = run(config, checkpoint=checkpoint)
        again, same = run(config, checkpoint=checkpoint, on_epoch=kill_after(0))
        assert_same(first, again)
        assert same == records

    def test_fewer_epochs_are_told(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.safetensors"
        _, records = run(small_config("training.epochs=2"), checkpoint=checkpoint)
        with pytest.warns(
            UserWarning, match=r"has 2 epochs, .* training.epochs \(1\): none is added"
        ):
            _, same = run(small_config("training.epochs=1"), checkpoint=checkpoint)
        assert same == records

    def test_more_epochs_go_on_from_the_last_not_the_best(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.safetensors"
        run(small_config("training.epochs=2"), checkpoint=checkpoint)
        longer = small_config("training.epochs=4", "training.patience=9")
        resumed, again = run(longer, checkpoint=checkpoint)
        whole, records = run(longer)
        assert_same(whole, resumed)
        assert without_seconds(again) == without_seconds(records)

    @pytest.mark.parametrize(
        "setting",
        ["model.embedding_size=4", "training.seed=2", "training.learning_rate=0.1"],
    )
    def test_of_other_settings(self, tmp_path, setting):
        checkpoint = tmp_path / "checkpoint.safetensors"
        run(small_config(), checkpoint=checkpoint)
        with pytest.raises(FileError, match="checkpoint.safetensors: belongs to a training on oth"):
            run(small_config(setting), checkpoint=checkpoint)

    @pytest.mark.parametrize("column", ["user", "item", "feedback", "time"])
    def test_of_other_data(self, tmp_path, column):
        checkpoint, config = tmp_path / "checkpoint.safetensors", small_config()
        run(config, checkpoint=checkpoint)
        rows = SPLIT.train
        other = replace(rows, **{column: np.roll(getattr(rows, column), 1)})
        for fit, valid in ((other, SPLIT.valid_targets), (rows, other)):
            model = build_model(config, rows.num_users, rows.num_items)
            with pytest.raises(FileError, match="belongs to a training on other data"):
                train(model, config, fit, valid, checkpoint, progress=False)

    def test_in_other_units_of_time(self, tmp_path):
        checkpoint, config = tmp_path / "checkpoint.safetensors", small_config()
        run(config, checkpoint=checkpoint)
        rows = replace(SPLIT.train, time_unit="ms" if SPLIT.train.time_unit == "s" else "s")
        model = build_model(config, rows.num_users, rows.num_items)
        with pytest.raises(FileError, match="belongs to a training on other data"):
            train(model, config, rows, SPLIT.valid_targets, checkpoint, progress=False)

    def test_other_epochs_of_a_falling_learning_rate(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.safetensors"
        run(small_config(), checkpoint=checkpoint, again={"encoders": 2})
        with pytest.raises(FileError, match="belongs to a training on other data"):
            run(small_config(), checkpoint=checkpoint, again={"encoders": 3})

    @pytest.mark.parametrize("epochs", [1, 3, 4, 6])
    def test_between_and_within_two_parts(self, tmp_path, epochs):
        config = small_config("training.epochs=3", "training.patience=9", preset="emorec")
        whole, records = run(config)
        checkpoint = tmp_path / "checkpoint.safetensors"
        with pytest.raises(Killed):
            run(config, checkpoint=checkpoint, on_epoch=kill_after(epochs))
        resumed, again = run(config, checkpoint=checkpoint)
        assert_same(whole, resumed)
        assert without_seconds(again) == without_seconds(records)

    @pytest.mark.parametrize(
        ("tensors", "about"),
        [({"a": torch.zeros(1)}, {}), ({"model.a": torch.zeros(1)}, {}), ({}, {"records": [7]})],
    )
    def test_of_another_kind(self, tmp_path, tensors, about):
        checkpoint = tmp_path / "checkpoint.safetensors"
        run(small_config(), checkpoint=checkpoint)
        own, facts = load_tensors(checkpoint)
        save_tensors(checkpoint, own | tensors, facts | about)
        with pytest.raises(FileError, match="checkpoint.safetensors: belongs to another model"):
            run(small_config(), checkpoint=checkpoint)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"optimizer.0.exp_avg": torch.zeros(3)},
                r"0.exp_avg is .* \[3\], must be .* \[50, 8\]",
            ),
            ({"optimizer.0.exp_avg": None}, "0.exp_avg is missing"),
            ({"optimizer.0.": None}, "0.exp_avg is missing"),
            ({"optimizer.0.step": torch.zeros(2)}, "0.step is .*, must be torch.float32"),
            ({"optimizer.999.step": torch.zeros(())}, "999.step is unknown"),
            ({"optimizer.0.exp_avg": torch.zeros(50, 8).double()}, "0.exp_avg is torch.float64"),
            ({"average.item_embedding.weight": torch.zeros(1)}, r"weight is .* \[1\], must be"),
            ({"average.steps": torch.zeros(2).long()}, r"steps is torch.int64 \[2\], must be"),
            ({"best.item_embedding.weight": torch.zeros(1)}, r"weight is .* \[1\], must be"),
            ({"best.": None}, "project is missing"),
            ({"model.item_embedding.weight": torch.zeros(50, 8) / 0}, "weight holds NaN"),
        ],
    )
    def test_tensors_that_do_not_fit(self, tmp_path, change, message):
        checkpoint = tmp_path / "checkpoint.safetensors"
        run(small_config(), checkpoint=checkpoint)
        tensors, about = load_tensors(checkpoint)
        for name, value in change.items():
            if value is None:
                tensors = {key: each for key, each in tensors.items() if not key.startswith(name)}
            else:
                tensors[name] = value
        save_tensors(checkpoint, tensors, about)
        with pytest.raises(FileError, match=f"belongs to another model.*{message}") as caught:
            run(small_config(), checkpoint=checkpoint)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "about",
        [
            {"moments": [99]}, {"moments": None}, {"moments": "all"}, {"best_score": "high"},
            {"epochs_without_gain": -1}, {"records": [{"epoch": 7, "loss": 1.0, "seconds": 1.0}]},
            {"records": [{"epoch": 1, "loss": "low", "seconds": 1.0}]},
            {"records": [{"epoch": 1, "loss": 1.0, "seconds": 1.0, "valid": 3}]},
        ],
    )  # fmt: skip
    def test_facts_that_do_not_fit(self, tmp_path, about):
        checkpoint = tmp_path / "checkpoint.safetensors"
        run(small_config(), checkpoint=checkpoint)
        tensors, own = load_tensors(checkpoint)
        save_tensors(checkpoint, tensors, own | about)
        with pytest.raises(FileError, match="belongs to another model or version"):
            run(small_config(), checkpoint=checkpoint)

    def test_a_changed_byte(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.safetensors"
        run(small_config(), checkpoint=checkpoint)
        content = bytearray(checkpoint.read_bytes())
        content[-9] ^= 1  # the last bit of a parameter
        checkpoint.write_bytes(content)
        with pytest.raises(FileError, match="does not have the SHA-256 that it states"):
            run(small_config(), checkpoint=checkpoint)

    def test_cut_short(self, tmp_path):
        checkpoint = tmp_path / "checkpoint.safetensors"
        run(small_config(), checkpoint=checkpoint)
        checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
        with pytest.raises(FileError, match="checkpoint.safetensors: is damaged"):
            run(small_config(), checkpoint=checkpoint)

    def test_a_full_disk_keeps_the_checkpoint_before(self, tmp_path, monkeypatch):
        config = small_config("training.epochs=3")
        checkpoint = tmp_path / "checkpoint.safetensors"
        with pytest.raises(Killed):
            run(config, checkpoint=checkpoint, on_epoch=kill_after(1))
        before = checkpoint.read_bytes()

        def no_space(*_args, **_options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr("emorec.storage.tensors.save_file", no_space)
            run(config, checkpoint=checkpoint)
        assert checkpoint.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]
        assert_same(run(config, checkpoint=checkpoint)[0], run(config)[0])


class _Scripted:
    """Validation scores by script."""

    def __init__(self, scores):
        self.scores = iter(scores)

    def __call__(self, *_args, **_options):
        return self

    def summary(self):
        score = next(self.scores)
        names = ["recall_any", "ndcg_any", "recall_likes", "ndcg_likes", "disliked_share"]
        return dict.fromkeys(names, 0.5) | {"ndcg_any": score}

    def score(self, _):
        return 0.5


class TestEarlyStopping:
    @pytest.fixture(autouse=True)
    def _patience_in_epochs(self, monkeypatch):
        monkeypatch.setattr(training, "_STEPS_OF_PATIENCE", 1)

    def run_with(self, monkeypatch, scores, epochs=9):
        monkeypatch.setattr(validation, "evaluate", _Scripted(scores))
        config = small_config(
            f"training.epochs={epochs}", "training.patience=2", "training.averaging=0"
        )
        model = build_model(config, LOG.num_users, LOG.num_items)
        states = []

        def on_epoch(_):
            states.append({name: x.clone() for name, x in model.state_dict().items()})

        records = train(
            model, config, SPLIT.train, SPLIT.valid_targets, on_epoch=on_epoch, progress=False
        )
        return model.state_dict(), states, records

    def test_stops_after_patience_and_restores_the_best_epoch(self, monkeypatch):
        found, states, records = self.run_with(monkeypatch, [0.1, 0.5, 0.3, 0.5, 0.9])
        assert [record.valid["ndcg"] for record in records] == [0.1, 0.5, 0.3, 0.5]
        assert all(torch.equal(found[name], states[1][name]) for name in found)
        assert any(not torch.equal(found[name], states[3][name]) for name in found)

    def test_validation_alone_decides_without_a_limit(self, monkeypatch):
        rising = list(np.arange(30) / 30)
        _, _, records = self.run_with(monkeypatch, [*rising, 0.9, 0.9, 1.0], epochs=0)
        assert len(records) == 32

    def test_patience_is_at_least_a_hundred_steps(self, monkeypatch):
        monkeypatch.setattr(training, "_STEPS_OF_PATIENCE", 100)
        monkeypatch.setattr(parts, "num_batches", lambda *_: 15)
        _, _, records = self.run_with(monkeypatch, [0.5, *[0.4] * 20], epochs=0)
        assert len(records) == 1 + 7  # 7 epochs of 15 steps
        monkeypatch.setattr(parts, "num_batches", lambda *_: 60)
        _, _, records = self.run_with(monkeypatch, [0.5, *[0.4] * 20], epochs=0)
        assert len(records) == 1 + 2

    def test_a_gain_resets_patience(self, monkeypatch):
        _, _, records = self.run_with(monkeypatch, [0.1, 0.0, 0.2, 0.1, 0.3, 0.2, 0.1, 0.9])
        assert len(records) == 7

    def test_patience_survives_a_resume(self, monkeypatch, tmp_path):
        config = small_config("training.epochs=9", "training.patience=2")
        checkpoint = tmp_path / "checkpoint.safetensors"
        monkeypatch.setattr(validation, "evaluate", _Scripted([0.5, 0.4]))
        with pytest.raises(Killed):
            run(config, checkpoint=checkpoint, on_epoch=kill_after(2))
        monkeypatch.setattr(validation, "evaluate", _Scripted([0.4, 0.9]))
        _, records = run(config, checkpoint=checkpoint)
        assert [record.valid["ndcg"] for record in records] == [0.5, 0.4, 0.4]

    def test_without_validation_all_epochs_count_and_the_last_is_kept(self):
        nothing = SPLIT.valid.select(np.zeros(0, dtype=np.int64))
        config = small_config("training.epochs=3", "training.patience=1", "training.averaging=0")
        states = []
        model = build_model(config, LOG.num_users, LOG.num_items)
        records = train(
            model,
            config,
            SPLIT.train,
            nothing,
            on_epoch=lambda _: states.append(
                {name: x.clone() for name, x in model.state_dict().items()}
            ),
            progress=False,
        )
        assert [record.valid for record in records] == [{}, {}, {}]
        found = model.state_dict()
        assert all(torch.equal(found[name], states[2][name]) for name in found)

    def test_without_validation_and_a_limit_there_are_twenty_epochs(self):
        config = small_config("training.epochs=0")
        assert most_epochs(config, False) == 20
        assert most_epochs(config, True) == training.MOST_EPOCHS
        assert most_epochs(small_config("training.epochs=3"), False) == 3

    def test_a_score_that_validation_cannot_give_is_an_error(self):
        disliked = replace(SPLIT.valid, feedback=np.full(len(SPLIT.valid), 3))
        config = small_config("evaluation.select=ndcg_likes")
        with pytest.raises(TrainingError, match="by 'ndcg_likes', but no .* event is liked"):
            run(config, replace(SPLIT, valid=disliked))


def test_the_average_is_validated_and_kept():
    plain, _ = run(small_config("training.epochs=1", "training.averaging=0"))
    averaged, _ = run(small_config("training.epochs=1", "training.averaging=0.9"))
    start = build_model(small_config(), LOG.num_users, LOG.num_items)
    begin, end, average = (
        torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        for model in (start, plain, averaged)
    )
    assert 0 < (average - begin).norm() < 0.98 * (end - begin).norm()


def test_annealing_lowers_the_learning_rate_to_0(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step

    def noted(optimizer, *args):
        rates.append({group["lr"] for group in optimizer.param_groups})
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    settings = "training.learning_rate=0.01", "graph.learning_rate=0.02"
    run(small_config(*settings, preset="emorec"), again={"graph": 1, "encoders": 2})
    of_graph = 4  # batches of 16 of 60 users
    own = [[0.02 * (1 - number / of_graph)] for number in range(of_graph)]
    steps = len(rates) - of_graph
    own += [[0.01 * (1 - number / steps)] for number in range(steps)]
    assert [list(each) for each in rates] == [pytest.approx(each) for each in own]
    assert steps >= 4


@pytest.mark.parametrize("preset", ["emorec", "emorec-graph"])
def test_a_small_catalogue_is_summed_over_as_a_whole(preset):
    by_size, _ = run(small_config(preset=preset))
    whole, _ = run(small_config("loss.negatives=0", preset=preset))
    assert_same(by_size, whole)


@pytest.mark.parametrize("preset", ["emorec", "emorec-graph"])
def test_a_large_catalogue_is_sampled(monkeypatch, preset):
    drawn, records = run(small_config("loss.negatives=20", preset=preset))
    monkeypatch.setattr("emorec.training.candidates.LARGEST_WHOLE", 49)
    monkeypatch.setattr("emorec.training.candidates._DRAWN", 20)
    by_size, _ = run(small_config(preset=preset))
    assert_same(by_size, drawn)
    assert all(parameter.isfinite().all() for parameter in drawn.parameters())
    whole, others = run(small_config("loss.negatives=0", preset=preset))
    assert records[-1].loss < 0.9 * others[-1].loss  # fewer items to tell a target from


class TestErrors:
    def test_a_loss_that_is_no_number(self, monkeypatch):
        def broken(state, *_):
            return state.sum() * math.nan

        monkeypatch.setattr(softmax, "softmax_loss", broken)
        with pytest.raises(TrainingError, match=r"loss is nan in epoch 1; lower .*\(now 0.01\)"):
            run(small_config())

    @pytest.mark.parametrize("batch_size", [8, 1000])  # several steps per epoch, and one
    def test_a_learning_rate_far_too_high(self, batch_size):
        config = small_config("training.learning_rate=1e30", f"training.batch_size={batch_size}")
        with pytest.raises(TrainingError, match="lower training.learning_rate"):
            run(config)

    def test_no_event_is_a_target(self):
        disliked = replace(SPLIT.train, feedback=np.full(len(SPLIT.train), 3))
        with pytest.raises(TrainingError, match="loss.targets is 'positive', and no train event"):
            run(small_config(preset="emo-sage-thp"), replace(SPLIT, train=disliked))


def test_events_do_not_count_in_what_they_teach(monkeypatch):
    found, logits = [], ItemPolarity.logits

    def spy(head, taste, items, feedback):
        found.append(items[:, 0] * len(Feedback) + feedback[:, 0])
        return logits(head, taste, items, feedback)

    monkeypatch.setattr(ItemPolarity, "logits", spy)
    run(small_config("training.epochs=1", preset="emorec"))
    expected = SPLIT.train.item * len(Feedback) + SPLIT.train.feedback
    assert sorted(torch.cat(found).tolist()) == sorted(expected.tolist())


@pytest.mark.parametrize("head", ["next", "item"])
def test_polarity_of_events_to_come_is_learned(head):
    # Half of the users like everything, the other half nothing.
    rows = [
        (user, (user * 3 + step) % 10, 0 if user % 2 else 3, 1000 * step)
        for user in range(40)
        for step in range(8)
    ]
    split = split_interactions(small_log(rows, 40, 10), n=2)
    config = small_config(
        "training.epochs=30",
        "training.patience=30",
        "sequence.dropout=0",
        "model.aversion=0",
        f"model.polarity={head}",
    )
    model, _ = run(config, split)
    taste = ModelScorer(model, split.history).states(torch.arange(40)).taste.clone()
    logits = model.polarity.logits(taste, torch.arange(10).expand(40, -1))
    positive = model.polarity.levels.index(Feedback.IMPLICIT_POSITIVE)
    probability = logits[..., positive].sigmoid().detach()
    assert probability[1::2].min() > 0.7
    assert probability[::2].max() < 0.3


def test_the_trained_encoder_tells_users_apart():
    model, _ = run(small_config("training.epochs=4"))
    events = EventSequences.build(SPLIT.history)
    batch = events.inference_batch(np.arange(60), 20)
    with torch.no_grad():
        states = model.eval().sequence_encoder(batch, model.item_embedding.weight)[batch.last]
    assert states.std(0).mean() > 0.1


class TestQuality:
    """What is learned beats popularity where there is something to learn, and only there."""

    LOG = generate(num_users=300, num_items=200, num_topics=12, events_per_user=40)

    def config(self, *settings):
        return load_config(
            "emorec",
            settings=(
                "model.backend=torch",
                "model.embedding_size=32",
                "sequence.layers=1",
                "sequence.max_length=50",
                "training.epochs=30",
                "training.batch_size=32",
                "training.learning_rate=0.005",
                "training.patience=4",
                *settings,
            ),
        )

    def recalls(self, log, models):
        split = split_interactions(log, n=5)
        users = np.unique(split.test.user)
        found = {}
        for name, make in models.items():
            topk = recommend_top_k(make(split), users, split.history, 10)
            summary = evaluate(topk, users, split.test, 10).summary()
            found[name] = summary["recall_any"], summary["ndcg_any"]
        return split, found

    def trained(self, *settings):
        return lambda split: ModelScorer(run(self.config(*settings), split)[0], split.history)

    def test_flagship_beats_popularity_clearly(self):
        _, found = self.recalls(
            self.LOG.interactions,
            {"MostPop": lambda s: MostPop().fit(s.history), "EmoRec": self.trained()},
        )
        for ours, popular in zip(found["EmoRec"], found["MostPop"], strict=True):
            assert ours > 1.5 * popular

    def test_nothing_beats_chance_where_there_is_nothing_to_learn(self):
        split, found = self.recalls(
            shuffled(self.LOG),
            {
                "MostPop": lambda s: MostPop().fit(s.history),
                "ItemKNN": lambda s: ItemKNN().fit(s.history),
                "EmoRec": self.trained("training.epochs=8"),
            },
        )
        seen = np.bincount(split.history.user, minlength=split.history.num_users)
        users, counts = np.unique(split.test.user, return_counts=True)
        chance = np.minimum(10 / (split.history.num_items - seen[users]), 1)
        expected = chance.mean()
        deviation = np.sqrt((chance * (1 - chance) / counts).sum()) / len(users)
        for name, (recall, _) in found.items():
            assert recall < expected + 4 * deviation, name
            assert recall > expected - 4 * deviation, name


def test_the_tables_of_the_polarity_have_a_weight_decay_of_their_own(monkeypatch):
    monkeypatch.setattr(losses, "polarity_loss", lambda logit, _: 0 * logit.sum(-1))
    config = small_config("loss.polarity_decay=0.5", "training.epochs=1", "training.averaging=0")
    model = build_model(config, SPLIT.train.num_users, SPLIT.train.num_items)
    before = [table.detach().clone() for table in model.polarity.tables()]
    threshold = model.polarity.threshold.detach().clone()
    nothing = SPLIT.valid.select(np.zeros(0, dtype=np.int64))
    train(model, config, SPLIT.train, nothing, progress=False)
    options = config.training
    events = EventSequences.build(SPLIT.train)
    steps = num_batches(events.lengths, config.sequence.max_length, options.batch_size)
    left = (1 - 0.5 * options.learning_rate) ** steps
    for table, start in zip(model.polarity.tables(), before, strict=True):
        torch.testing.assert_close(table.detach(), start * left)  # no loss reaches them here
    assert torch.equal(model.polarity.threshold, threshold)


def test_the_polarity_counts_what_is_learned_from():
    model, _ = run(small_config("training.epochs=1"))
    counted = ItemPolarity(LOG.num_items, model.item_embedding.embedding_dim)
    counted.fit(SPLIT.train)
    assert torch.equal(model.polarity.prior, counted.prior)
    assert counted.prior.any()


def test_each_part_leaves_the_other_alone():
    config = small_config("training.epochs=1", preset="emorec")
    whole, _ = run(config)
    graph, _ = run(small_config("training.epochs=1", preset="emorec-graph"))
    # The seed draws parameters of the graph first.
    alone = build_model(config, SPLIT.train.num_users, SPLIT.train.num_items)
    alone.feedback_sum = alone.feedback_paths = None
    train(alone, config, SPLIT.train, SPLIT.valid_targets, progress=False)
    for name, tensor in graph.feedback_sum.named_parameters():
        torch.testing.assert_close(whole.feedback_sum.get_parameter(name), tensor)
    for name, tensor in alone.sequence_encoder.named_parameters():
        own = whole.sequence_encoder.get_parameter(name)
        torch.testing.assert_close(own, tensor)
