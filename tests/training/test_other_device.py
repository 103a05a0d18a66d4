"""Training and scoring on a device other than the CPU, for which `tests.other_device` stands."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

from emorec.building import build_model
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.inference.ranking import ModelScorer
from emorec.nn.polarity import ItemPolarity
from emorec.training.loop import train
from tests import other_device
from tests.small import small_config

ALL_THERE_IS = "all there is"
PRESETS = [ALL_THERE_IS, "emorec", "emorec-graph", "emo-gat-thp-polarity", "diff-gat"]
PRECISIONS = ["float32", "bfloat16"]
NUM_USERS, BATCH = 60, 16
BPR = ["emo-gat-thp-polarity", "diff-gat"]

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"PyTorch {torch.__version__} takes no device that is written in Python",
)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    """What the process that `main` runs in found, by preset and precision."""
    command = [sys.executable, "-m", "tests.training.test_other_device"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_device_makes_no_difference(outcomes, preset):
    found = outcomes[f"{preset} float32"]
    assert found["other"]["losses"] == pytest.approx(found["cpu"]["losses"], rel=1e-5)
    assert found["other"]["ndcg"] == pytest.approx(found["cpu"]["ndcg"], rel=1e-4)
    assert found["other"]["scores"] == pytest.approx(found["cpu"]["scores"], rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_low_precision_loses_little(outcomes, preset):
    for device in ("cpu", "other"):
        low = outcomes[f"{preset} bfloat16"][device]["losses"]
        full = outcomes[f"{preset} float32"][device]["losses"]
        assert low == pytest.approx(full, rel=1e-2)
        if device == "other":  # what is computed in it differs from the CPU
            assert low != full


@pytest.mark.parametrize("preset", PRESETS)
def test_a_step_waits_for_the_device_few_times(outcomes, preset):
    copies = outcomes[f"{preset} float32"]["copies per step"]
    # The number of targets, the loss and, in the reference of the attention, the longest sequence.
    assert copies["read"] <= 3
    # BPR draws items on the CPU, for the users of the targets.
    assert copies.get("from", 0) == (1 if preset in BPR else 0)
    # The arrays of the batch.
    assert copies["to"] <= 30


def main() -> None:
    """Trains every preset on both devices and prints what came of it."""
    torch.set_num_threads(1)
    libraries = other_device.register()
    found = {}
    for preset in PRESETS:
        for precision in PRECISIONS:
            own = trained(preset, precision, "cpu")
            with other_device.OtherDevice(within="_run_epoch") as device:
                other = trained(preset, precision, other_device.NAME)
            steps = len(other["losses"]) * -(-NUM_USERS // BATCH)
            found[f"{preset} {precision}"] = {
                "cpu": own,
                "other": other,
                "steps": steps,
                "copies per step": {what: n / steps for what, n in device.copies.items()},
            }
    print(json.dumps(found))
    del libraries  # until here they are needed


def trained(preset: str, precision: str, device: str) -> dict[str, Any]:
    """A training on a device, and scores by what was trained."""
    log = generate(num_users=NUM_USERS, num_items=50, num_topics=8, events_per_user=12).interactions
    split = split_interactions(log, n=3)
    options = (
        f"training.device={device}",
        f"training.precision={precision}",
        f"training.batch_size={BATCH}",
        f"graph.batch_size={BATCH}",
    )
    config = small_config(*options, preset=None if preset == ALL_THERE_IS else preset)
    torch.manual_seed(0)
    model = build_model(config, log.num_users, log.num_items)
    records = train(model, config, split.train, split.valid_targets, progress=False)
    scorer = ModelScorer(model, split.history, device)
    users = torch.arange(0, log.num_users, 7)
    scores = torch.cat(list(scorer.in_blocks(users, 20)), dim=1)
    torch.testing.assert_close(scores, scorer(users))
    if isinstance(model.polarity, ItemPolarity):
        scores = torch.cat([scores, scorer.polarity(users, torch.zeros(len(users), 2).long())], 1)
    return {
        "losses": [record.loss for record in records],
        "ndcg": [record.valid["ndcg"] for record in records],
        "scores": scores.flatten().tolist(),
    }


if __name__ == "__main__":
    main()
