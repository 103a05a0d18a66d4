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


class TestLoad:
    """What is said of libraries that cannot be loaded, in a PyTorch that has CUDA."""

    @pytest.fixture(autouse=True)
    def _with_cuda(self, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(build, "too_old", lambda: None)
        library.load.cache_clear()
        yield
        library.load.cache_clear()

    def test_not_built(self, monkeypatch):
        monkeypatch.setattr(library, "find", lambda name: None)
        message = f"the compiled operators for cpu are not built; {library.REMEDY}"
        assert library.load() == {"cpu": message, "cuda": message}  # the first has the schemas

    def test_broken(self, monkeypatch, tmp_path):
        def fails(path):
            raise OSError("wrong ELF class\nin detail")

        monkeypatch.setattr(library, "find", lambda name: tmp_path / f"{name}.so")
        monkeypatch.setattr(torch.ops, "load_library", fails)
        message = f"{tmp_path / '_C.so'} does not load (wrong ELF class); {library.REMEDY}"
        assert library.load()["cpu"] == message

    def test_the_one_of_the_gpu_alone_is_missing(self, monkeypatch, tmp_path):
        monkeypatch.setattr(library, "find", lambda name: tmp_path if name == "_C" else None)
        monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
        monkeypatch.setattr(library, "_unregistered", lambda: None)
        message = f"the compiled operators for cuda are not built; {library.REMEDY}"
        assert library.load() == {"cuda": message}
        assert library.problem("cpu") is None and library.problem("cuda") == message


def test_the_file_is_looked_for_in_the_package_and_then_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "__file__", str(tmp_path / "emorec" / "ops" / "library.py"))
    monkeypatch.setattr(build, "cache_folder", lambda: tmp_path / "cache")
    assert library.find("_C") is None
    suffix = library.importlib.machinery.EXTENSION_SUFFIXES[-1]
    for folder in (tmp_path / "cache", tmp_path / "emorec"):
        folder.mkdir()
        (folder / f"_C{suffix}").touch()
        assert library.find("_C") == folder / f"_C{suffix}"
    assert library.find("_C_cuda") is None
