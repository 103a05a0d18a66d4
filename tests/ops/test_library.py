from __future__ import annotations

import pytest
import torch

from emorec.ops import build, library


@pytest.fixture
def older_torch(monkeypatch):
    """PyTorch 2.9, and a process that has loaded no library yet."""
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_an_older_pytorch_runs_the_references_and_is_named(older_torch):
    message = "need PyTorch 2.10 or later, this is 2.9.1+cpu; pip install 'torch>=2.10'"
    problem = library.problem("cpu")
    assert problem is not None and message in problem
    assert not library.runs_fused("auto", "cpu")
    with pytest.raises(RuntimeError, match="need PyTorch 2.10 or later"):
        library.runs_fused("fused", "cpu")
    with pytest.raises(RuntimeError, match="need PyTorch 2.10 or later"):
        build.build_in_cache()


def test_doctor_names_it(older_torch):
    from emorec.cli.doctor import report

    (line,) = [line for line in report().splitlines() if line.startswith("operators  ")]
    assert "PyTorch references run: the compiled operators need PyTorch 2.10 or later" in line


@pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0.0"])
def test_later_versions_are_taken(monkeypatch, version):
    monkeypatch.setattr(torch, "__version__", version)
    assert build.too_old() is None
