import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from emorec.training.checkpoint import EpochRecord, is_refit
from emorec.training.tensorboard import TensorBoard, require_tensorboard

RECORDS = [
    EpochRecord(1, 5.0, 0.1, {"ndcg": 0.25}, "graph"),
    EpochRecord(1, 6.0, 0.1, {"ndcg": 0.5}),
    EpochRecord(2, 5.5, 0.1, {"ndcg": 0.75}),
    EpochRecord(1, 4.0, 0.1),
]


def test_refit():
    assert [is_refit(record, RECORDS) for record in RECORDS] == [False, False, False, True]
    assert not is_refit(RECORDS[3], RECORDS[3:])  # never validated


def test_scalars_by_part_and_epoch(tmp_path):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with TensorBoard(tmp_path / "curves") as write:
        for number in range(len(RECORDS)):
            write(RECORDS[: number + 1])
    found = EventAccumulator(str(tmp_path / "curves")).Reload()
    scalars = {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }
    assert scalars == {
        "graph/loss": [(1, 5.0)],
        "graph/ndcg": [(1, 0.25)],
        "encoders/loss": [(1, 6.0), (2, 5.5)],
        "encoders/ndcg": [(1, 0.5), (2, 0.75)],
        "encoders refit/loss": [(1, 4.0)],
    }


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "emorec\[tensorboard\]"'):
        require_tensorboard()


def test_each_scalar_is_written_at_once(monkeypatch):
    """As above, with a stand-in for the package."""
    said = []

    class Writer:
        def __init__(self, folder):
            said.append(folder)

        def add_scalar(self, name, value, epoch):
            said.append((name, value, epoch))

        def flush(self):
            said.append("flush")

        def close(self):
            said.append("close")

    stand_in = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", stand_in)
    with TensorBoard(Path("curves")) as write:
        for number in (0, 1, 3):
            write(RECORDS[: number + 1])
    assert said == [
        *("curves", ("graph/loss", 5.0, 1), ("graph/ndcg", 0.25, 1), "flush"),
        *(("encoders/loss", 6.0, 1), ("encoders/ndcg", 0.5, 1), "flush"),
        *(("encoders refit/loss", 4.0, 1), "flush", "close"),
    ]
