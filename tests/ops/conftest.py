"""The backends of operators, and the instruction sets of their kernels."""

from __future__ import annotations

import pytest
import torch

from tests.ops.operators import needs_library


@pytest.fixture(params=["reference", pytest.param("fused", marks=needs_library)])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["baseline", "avx2", "avx512", "neon"])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Kernels of each instruction set that this processor has."""
    monkeypatch.setenv("EMOREC_ISA", request.param)
    try:
        assert torch.ops.emorec.instruction_set() == request.param
    except RuntimeError as error:
        pytest.skip(f"this processor: {str(error).splitlines()[0]}")
    return request.param
