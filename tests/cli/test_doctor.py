"""emorec doctor."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from emorec import __version__, cli
from emorec.ops import library
from tests.cli.commands import call

doctor = importlib.import_module("emorec.cli.doctor")  # emorec.cli.doctor is the command


def states():
    """What is reported, by part."""
    rows = (line.split("  ", 1) for line in doctor.report().splitlines())
    return {name: state.strip() for name, state in rows}


@pytest.fixture
def compiled(monkeypatch):
    """Operators of both devices that load, in a PyTorch that has CUDA."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(library, "problem", lambda device: None)
    monkeypatch.setattr(library, "find", lambda name: Path(f"/there/{name}.so"))


def test_the_command_compiles_if_asked_to(monkeypatch):
    built = []
    monkeypatch.setattr("emorec.ops.build.build_in_cache", lambda: built.append(True))
    first, second = call(cli.main, "doctor"), call(cli.main, "doctor", "--build")
    assert first.exit_code == second.exit_code == 0 and built == [True]
    assert first.stdout.split()[:2] == ["emorec", __version__]
    assert second.stdout.startswith("Compiling the operators; this takes a minute or two.\nemorec ")


def test_compiled_operators_are_named_with_their_files(compiled, monkeypatch):
    operators = type("Operators", (), {"instruction_set": staticmethod(lambda: "avx2")})
    monkeypatch.setattr(torch.ops, "emorec", operators, raising=False)
    found = states()
    assert found["torch"].endswith("threads, CUDA 13.0, 2 GPU")
    assert found["operators"] == "compiled, avx2 (/there/_C.so)"
    assert found["operators on cuda"] == "compiled (/there/_C_cuda.so)"


@pytest.mark.parametrize("error", [ImportError("no dgl\nat all"), PackageNotFoundError("dgl")])
def test_what_is_missing_is_told_in_a_line(monkeypatch, error):
    def fails():
        raise error

    monkeypatch.setattr(doctor, "import_dgl", fails)
    assert states()["dgl"] == f"missing: {str(error).splitlines()[0]}"
