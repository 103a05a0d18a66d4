"""Fixtures and options shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("fuzz", max_examples=10_000, print_blob=True)  # see tests/fuzz/amount.py

DEFAULT_DATA_DIR = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--run-slow", action="store_true", help="also run the tests that train for minutes"
    )


def pytest_configure(config: pytest.Config) -> None:
    # Tests are many and small: more threads only cost start-up and make sums irreproducible.
    # Under ThreadSanitizer, the operators' tests need them.
    torch.set_num_threads(int(os.environ.get("EMOREC_TEST_THREADS", 1)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {}
    if not config.getoption("--run-slow"):
        skips["slow"] = pytest.mark.skip(reason="trains for minutes; run with --run-slow")
    if not torch.cuda.is_available():
        skips["gpu"] = pytest.mark.skip(reason="needs a CUDA device, and torch sees none")
    for item in items:
        for marker, skip in skips.items():
            if marker in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fixed_defaults() -> Iterator[None]:
    """Every test starts from the same seed and leaves torch's global switches as it found them."""
    torch.manual_seed(0)
    dtype = torch.get_default_dtype()
    grad = torch.is_grad_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(
    params=[
        "cpu",
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
    if torch.cuda.is_available()
    else ["cpu"]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The CPU, and CUDA too where there is one."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Folder with the real data sets."""
    folder = Path(os.environ.get("EMOREC_DATA_DIR", DEFAULT_DATA_DIR))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set EMOREC_DATA_DIR to the folder that has it")
    return folder
