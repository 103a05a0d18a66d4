"""The CUDA library, compiled and linked without a GPU or a PyTorch that has CUDA.

Registers are compared with `cuda_budget.json`: what nvcc 13.0 gave, per kernel and architecture. A
spill, or a kernel grown over its budget, fails; a better number may be written down there.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from emorec.ops import build
from tests.native import toolchain

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
KERNELS = [path for path in build.cuda_sources(toolchain.CSRC) if path.suffix == ".cu"]
BUDGET = Path(__file__).with_name("cuda_budget.json")
KERNEL = re.compile(r"hawkes_attention_\w+_kernel(<[^>]*>)?")
TENSOR_CORES = {
    "Bf16": ("HMMA.16816.F32.BF16", "m16n8k16"),
    "Tf32": ("HMMA.1688.F32.TF32", "m16n8k8"),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kernel's PTX, machine code and report for each architecture."""
    nvcc = cuda_home() / "bin" / "nvcc"
    root = tmp_path_factory.mktemp("cuda")
    for architecture in ARCHITECTURES:
        for source in KERNELS:
            folder = root / architecture / source.stem
            folder.mkdir(parents=True)
            report = toolchain.compile_or_fail(
                [
                    nvcc,
                    *build.nvcc_flags(),
                    f"-arch={architecture}",
                    "-Xcompiler=-fPIC",
                    "-Xptxas=-v",
                ]
                + ["--keep", "--keep-dir", folder, "-c", source, "-o", folder / "kernel.o"]
            )
            (folder / "report.txt").write_text(report)
    return root


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_registers_and_spills(compiled: Path, architecture: str) -> None:
    used, spilled = {}, {}
    for path in sorted((compiled / architecture).glob("*/report.txt")):
        for part in demangled(path.read_text()).split("Compiling entry function")[1:]:
            kernel = KERNEL.search(part)[0].replace("emorec::", "")
            used[kernel] = int(re.search(r"Used (\d+) registers", part)[1])
            spilled[kernel] = int(re.search(r"(\d+) bytes spill stores", part)[1])
    budget = {kernel: row[architecture] for kernel, row in json.loads(BUDGET.read_text()).items()}
    print(json.dumps(used, indent=1))
    assert used.keys() == budget.keys()
    assert not {kernel: count for kernel, count in spilled.items() if count}
    # Registers are handed out by eights.
    over = {k: (used[k], budget[k]) for k in used if (used[k] + 7) // 8 > (budget[k] + 7) // 8}
    assert not over, "registers used, budget"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensor_cores_are_used(compiled: Path, architecture: str) -> None:
    disassembler = find_disassembler()
    for source in KERNELS:
        folder = compiled / architecture / source.stem
        if disassembler is None:
            text = next(folder.glob("*.ptx")).read_text()
            blocks = re.split(r"\.visible \.entry|\.entry", text)[1:]
        else:
            text = toolchain.compile_or_fail([disassembler, next(folder.glob("*.cubin"))])
            blocks = text.split(".section\t.text.")[1:]
        found = set()
        for block in blocks:
            name = demangled(re.match(r"\s*(\w+)", block)[1])
            for arithmetic, (machine_code, shape) in TENSOR_CORES.items():
                if f"<emorec::{arithmetic}," in name:
                    word = f"mma.sync.aligned.{shape}" if disassembler is None else machine_code
                    assert word in block, f"{name} has no {word}"
                    found.add(arithmetic)
        assert found == set(TENSOR_CORES)


def test_library_links(compiled: Path, tmp_path: Path) -> None:
    """Against a stand-in for libtorch_cuda, of which the library needs three functions."""
    home, cxx = cuda_home(), toolchain.cxx()
    stub = tmp_path / "libtorch_cuda.so"
    (tmp_path / "stub.c").write_text(
        "int aoti_torch_get_current_cuda_stream(int d, void** s) { return d + !s; }\n"
        "void torch_c10_cuda_check_msg(void) {}\nvoid torch_c10_cuda_free_error_msg(void) {}\n"
    )
    shared = ["-shared", "-fPIC"]
    toolchain.compile_or_fail(
        [cxx, *shared, "-x", "c", tmp_path / "stub.c", "-o", stub, "-Wl,-soname,libtorch_cuda.so"]
    )
    host = tmp_path / "host.o"
    include = [f"-I{path}" for path in (*cpp_extension.include_paths(), home / "include")]
    [source] = [path for path in build.cuda_sources(toolchain.CSRC) if path.suffix == ".cpp"]
    flags = [*build.cuda_cpp_flags(), "-fPIC", *include]
    toolchain.compile_or_fail([cxx, *flags, "-c", source, "-o", host])
    kernels = sorted((compiled / "sm_90").glob("*/kernel.o"))
    library = tmp_path / "_C_cuda.so"
    torch_lib = Path(torch.__file__).parent / "lib"
    toolchain.compile_or_fail(
        [cxx, *shared, host, *kernels, "-o", library, "-Wl,--no-undefined", f"-L{tmp_path}"]
        + ["-ltorch_cuda", f"-L{torch_lib}", "-ltorch", "-ltorch_cpu", f"-L{home / 'lib64'}"]
        + ["-lcudart", "-ldl", "-lpthread"]
    )
    symbols = toolchain.compile_or_fail(["nm", "-D", "-C", "--undefined-only", library])
    assert "at::" not in symbols and "c10::" not in symbols, "not the stable ABI alone"


def cuda_home() -> Path:
    home = build.cuda_home()
    if home is None:
        pytest.skip("needs nvcc, the compiler of the CUDA toolkit")
    return home


def demangled(text: str) -> str:
    filter_ = shutil.which("c++filt")
    assert filter_ is not None, "binutils has c++filt, and g++ needs binutils"
    return subprocess.run(
        [filter_], input=text, capture_output=True, text=True, check=True
    ).stdout.replace("(bool)1", "true")


def find_disassembler() -> str | None:
    """nvdisasm from the path, the toolkit, or the packages that carry it; None if nobody does."""
    places = [cuda_home() / "bin" / "nvdisasm"]
    for package, inside in (
        ("nvidia", "cu13/bin/nvdisasm"),
        ("triton", "backends/nvidia/bin/nvdisasm"),
    ):
        spec = importlib.util.find_spec(package)
        places += [
            Path(folder) / inside for folder in (spec.submodule_search_locations if spec else [])
        ]
    found = [shutil.which("nvdisasm"), *(str(path) for path in places if path.is_file())]
    return next((path for path in found if path), None)
