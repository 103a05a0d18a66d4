from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from emorec.ops import build

cpp_extension = pytest.importorskip("torch.utils.cpp_extension", reason="needs setuptools")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package of which nothing but the place is there."""
    monkeypatch.setattr(build, "__file__", str(tmp_path / "emorec" / "ops" / "build.py"))
    monkeypatch.setenv("EMOREC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "emorec"


def write_sources(folder, *names):
    for name in ("hawkes_attention.h", *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


class TestSources:
    def test_are_beside_the_package_or_inside_it(self, package):
        assert build.source_folder() is None
        write_sources(package / "csrc")
        assert build.source_folder() == package / "csrc"
        write_sources(package.parent / "csrc")
        assert build.source_folder() == package.parent / "csrc"

    def test_are_all_files_of_the_kind(self, package):
        folder = package / "csrc"
        write_sources(folder, "schemas.cpp", "cpu/b.cpp", "cpu/a.cpp", "cpu/x.inl", "cuda/k.cu")
        names = [path.relative_to(folder).as_posix() for path in build.cpp_sources(folder)]
        assert names == ["schemas.cpp", "cpu/a.cpp", "cpu/b.cpp"]

    def test_another_state_of_them_has_another_cache(self, package):
        nothing = build.cache_folder()
        write_sources(package / "csrc")
        first = build.cache_folder()
        (package / "csrc" / "hawkes_attention.h").write_text("changed")
        assert len({nothing, first, build.cache_folder()}) == 3
        assert nothing.parent == package.parent / "cache"


class TestCuda:
    @pytest.fixture(autouse=True)
    def _nothing_given(self, monkeypatch):
        monkeypatch.delenv("CUDA_HOME", raising=False)
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")  # as it is when the test ends
        monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
        monkeypatch.setattr(build.shutil, "which", lambda _: None)

    def test_the_toolkit_is_where_the_variable_says(self, monkeypatch, tmp_path):
        assert build.cuda_home() is None
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        assert build.cuda_home() == tmp_path

    @pytest.mark.parametrize(
        ("said", "home"), [("#$ _SPACE_=\n#$ TOP={}\n", True), ("no such option\n", False)]
    )
    def test_the_toolkit_is_where_nvcc_says(self, monkeypatch, tmp_path, said, home):
        answer = SimpleNamespace(stdout="", stderr=said.format(tmp_path))
        monkeypatch.setattr(build.shutil, "which", lambda name: f"/bin/{name}")
        monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: answer)
        assert build.cuda_home() == (tmp_path.resolve() if home else None)

    def test_why_the_library_cannot_be_built(self, monkeypatch):
        monkeypatch.setattr(torch.version, "cuda", None)
        assert build.prepare_cuda() == "this PyTorch has no CUDA"
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        assert build.prepare_cuda() == "there is no nvcc (the CUDA toolkit's compiler) on the path"
        assert "TORCH_CUDA_ARCH_LIST" not in os.environ

    @pytest.mark.parametrize("given", [None, "9.0"])
    def test_the_build_is_told_where_and_for_what(self, monkeypatch, tmp_path, given):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        if given:
            monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
        assert build.prepare_cuda() is None
        assert str(tmp_path) == cpp_extension.CUDA_HOME
        assert os.environ["TORCH_CUDA_ARCH_LIST"] == (given or "8.0;9.0;10.0;12.0+PTX")


class TestBuildInCache:
    @pytest.fixture
    def built(self, monkeypatch):
        """What would be compiled."""
        calls = []
        monkeypatch.setattr(build, "too_old", lambda: None)
        monkeypatch.setattr(cpp_extension, "load", lambda **options: calls.append(options))
        return calls

    def test_without_the_sources(self, package, built):
        with pytest.raises(FileNotFoundError, match="is neither beside nor inside the package"):
            build.build_in_cache()
        assert not built

    @pytest.mark.parametrize("problem", ["there is no nvcc", None])
    def test_the_library_of_the_gpu_where_there_is_a_compiler(
        self, package, built, monkeypatch, problem
    ):
        folder = package / "csrc"
        write_sources(folder, "cpu/a.cpp", "cuda/k.cu", "cuda/host.cpp")
        monkeypatch.setattr(build, "prepare_cuda", lambda: problem)
        found = build.build_in_cache(verbose=True)
        assert found == build.cache_folder() and found.is_dir()
        cpu, *cuda = built
        assert (cpu["name"], cpu["sources"]) == ("_C", [str(folder / "cpu" / "a.cpp")])
        assert cpu["extra_cflags"] == build.cpp_flags() and "-std=c++20" in cpu["extra_cflags"]
        assert [each["name"] for each in cuda] == ([] if problem else ["_C_cuda"])
        for each in built:
            assert each["build_directory"] == str(found) and each["verbose"]
            assert not each["is_python_module"]
        for each in cuda:
            names = [str(folder / "cuda" / name) for name in ("k.cu", "host.cpp")]
            assert each["sources"] == names
            assert "-DUSE_CUDA" in each["extra_cflags"] and each["extra_cuda_cflags"][0] == "-O3"
