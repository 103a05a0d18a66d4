from __future__ import annotations

import torch

from emorec.processes import ALONE, joined


def test_one_process_changes_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu", timeout=1) as world:
        assert world is ALONE
        assert not torch.distributed.is_initialized()
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert ALONE.is_first
    assert ALONE.total(x) is x
    assert ALONE.sum(x) is x
    assert ALONE.maximum(x) is x
    assert ALONE.gather(x)[0] is x
    assert ALONE.first_says("text") == "text"
    ALONE.copy_first([x])
    ALONE.require_same({"settings": "any"})
    ALONE.wait()
    assert x.tolist() == [1, 2]
    assert ALONE.bytes_sent == 0


def test_torchrun_of_one_process_sets_nothing_up(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined("cpu", timeout=1) as world:
        assert world is ALONE
        assert not torch.distributed.is_initialized()
