"""What commands have in common."""

from __future__ import annotations

import gc

import pytest

from emorec import EmoRec
from emorec.cli.common import load_run, quick_imports, ready_machine
from tests.small import small_config


@pytest.mark.parametrize("was_on", [True, False])
def test_imports_leave_the_collector_as_it_was(was_on):
    (gc.enable if was_on else gc.disable)()
    try:
        with quick_imports():
            assert not gc.isenabled()
        assert gc.isenabled() == was_on
    finally:
        gc.enable()


def test_no_backend_is_looked_for_without_a_graph(monkeypatch):
    asked = []
    monkeypatch.setattr("emorec.building.backend_for", asked.append)
    with_graph = small_config("training.threads=1")
    ready_machine(small_config("graph.conv=none", "training.threads=1", preset="emorec"))
    ready_machine(with_graph)
    assert asked == [with_graph]


@pytest.mark.parametrize(("backend", "expected"), [(None, "torch"), ("auto", "auto")])
def test_lists_of_a_run_need_no_dgl_unless_it_is_asked_for(trained, tmp_path, backend, expected):
    recommender = EmoRec.load(trained[0])
    recommender.config = recommender.config.with_settings("model.backend=auto")
    recommender.save(tmp_path / "run")
    assert load_run(tmp_path / "run", backend, None, None).config.model.backend == expected
