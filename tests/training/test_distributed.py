from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from emorec.building import build_model
from emorec.config import ConfigError, preset_names
from emorec.processes import ALONE, World
from emorec.training.distributed import require_shareable, sum_gradients
from emorec.training.sharding import ItemShards
from tests.small import small_config, torchrun
from tests.training.on_several import ALL_IN_FIRST, NO_DROPOUT, SPLIT, losses_of

CASES = {
    "all there is": (None, [NO_DROPOUT]),
    "drawn candidates": (None, [NO_DROPOUT, "loss.negatives=9"]),
    "drawn candidates of the sum": ("emorec-graph", ["loss.negatives=9"]),
    "one window per batch": (
        "emorec",
        [NO_DROPOUT, "training.batch_size=1", "graph.batch_size=1", "training.epochs=1"],
    ),
    "emorec by dgl": ("emorec-graph", ["model.backend=auto"]),
    "sage by dgl": ("emo-sage-thp", [NO_DROPOUT, "model.backend=auto"]),
} | {name: (name, [NO_DROPOUT]) for name in preset_names()}
SHARDED = "training.shard_items=true"
CASES |= {
    f"{name}, sharded": (CASES[name][0], [*CASES[name][1], SHARDED])
    for name in (
        *("emorec", "emorec-graph", "drawn candidates of the sum", "emorec by dgl"),
        "one window per batch",
    )
}
CASES |= {
    f"{name}, {ALL_IN_FIRST}": CASES[name]
    for name in ("emorec", "emo-sage-thp-negatives", "emorec, sharded")
}
CASES["drawn candidates, sharded"] = "emorec", [NO_DROPOUT, "loss.negatives=9", SHARDED]


def alone(name: str, *more: str, checkpoint: Path | None = None):
    """The losses and records of one process."""
    preset, settings = CASES[name]
    settings = [each for each in settings if each != SHARDED]
    return losses_of(small_config(*settings, *more, preset=preset), checkpoint=checkpoint)[:2]


RESUMED = "all there is", "emorec", "emo-gat", "emorec, sharded"
BY_FOUR = {name for name in CASES if name.endswith(("sharded", ALL_IN_FIRST))}
BY_FOUR |= {*RESUMED, "one window per batch", "drawn candidates"}  # the others by two alone


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What 2 and 4 processes find; some trainings are handed on from 1 to 2, to 4, to 1."""
    folder = tmp_path_factory.mktemp("several")
    checkpoints = {name: folder / f"{name}.safetensors" for name in RESUMED}
    for name in RESUMED:
        alone(name, "training.epochs=1", checkpoint=checkpoints[name])
    results = {}
    for number in (2, 4):
        epochs = f"training.epochs={ {2: 2, 4: 3}[number] }"
        resumed = {
            f"{name}, resumed": (preset, [*settings, epochs], str(checkpoints[name]))
            for name, (preset, settings) in CASES.items()
            if name in RESUMED
        }
        fresh = {name: case for name, case in CASES.items() if number == 2 or name in BY_FOUR}
        cases, file = fresh | resumed, folder / f"{number}.json"
        done = torchrun(number, "-m", "tests.training.on_several", json.dumps(cases), str(file))
        assert done.returncode == 0, done.stderr[:6000]
        results[number] = json.loads(file.read_text())
        assert results[number].keys() == cases.keys()
    for name in RESUMED:
        losses, records = alone(name, "training.epochs=4", checkpoint=checkpoints[name])
        results[f"{name}, resumed"] = {"losses": losses, "records": records}
    return results


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_one_process(found, name):
    losses, records = alone(name)
    assert len(losses) >= 4
    for number in (2, 4) if name in BY_FOUR else (2,):
        each = found[number][name]
        np.testing.assert_allclose(each["losses"], losses, rtol=1e-5)
        for valid, record in zip(each["valid"], records, strict=True):
            assert valid == pytest.approx(record.valid, abs=0.02, nan_ok=True)


@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_goes_on_with_any_number_of_processes(found, name):
    _, whole = alone(name, "training.epochs=4")
    handed_on = found[f"{name}, resumed"]["records"]
    assert [record.epoch for record in handed_on] == [record.epoch for record in whole]
    for one, other in zip(handed_on, whole, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
    for number in (2, 4):
        losses = found[number][f"{name}, resumed"]["losses"]
        assert len(losses) == len(found[number][name]["losses"]) // 2  # an epoch of two


class TestShards:
    @staticmethod
    def model():
        config = small_config(preset="emorec")
        return build_model(config, SPLIT.train.num_users, SPLIT.train.num_items)

    def test_each_process_has_some_rows(self):
        whole = self.model().state_dict()
        for rank, (start, stop) in enumerate([(0, 12), (12, 25), (25, 37), (37, 50)]):
            model = self.model()
            shards = ItemShards(model, 50, World(rank, 4))
            assert (shards.start, shards.stop) == (start, stop)
            for name in ("item_embedding.weight", "feedback_sum.source.weight"):
                assert torch.equal(model.state_dict()[name], whole[name][start:stop])
            assert model.feedback_sum.bias.shape == (stop - start,)
            assert model.polarity.item.weight.shape[0] == 50  # not divided

    def test_need_several_processes(self):
        with pytest.raises(ConfigError, match="needs several processes .torchrun., got one"):
            losses_of(small_config(SHARDED, preset="emorec"))

    def test_need_an_item_for_each(self):
        with pytest.raises(ConfigError, match="got 50 items and 51 processes"):
            ItemShards(self.model(), 50, World(0, 51))

    @pytest.mark.parametrize("preset", ["emo-gat", "emo-sage-thp"])
    def test_refused_of_graph_encoders(self, preset):
        with pytest.raises(ConfigError, match=r"shard_items is true, which needs graph.conv 'sum'"):
            small_config(SHARDED, preset=preset)


def test_three_layers_need_all_events():
    config = small_config("graph.layers=3", preset="emo-gat")
    model = build_model(config, SPLIT.train.num_users, SPLIT.train.num_items)
    require_shareable(model, ALONE)
    with pytest.raises(ConfigError, match=r"graph.layers is 3, .* at most 2, as all presets have"):
        require_shareable(model, World(0, 2))


def test_sum_of_gradients_of_one_process_is_its_own():
    one, other = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
    loss = (3 * one).sum()
    loss.backward()
    assert sum_gradients(ALONE, [one, other], loss).item() == 6
    assert one.grad.tolist() == [3, 3]
    assert other.grad is None
