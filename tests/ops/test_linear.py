from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emorec.ops import library
from emorec.ops.linear import add_linear, norm_linear
from tests.ops.operators import needs_library

Operator = Callable[..., Tensor]
# Of `norm_linear`; `add_linear` has none.
ACTIVATIONS: list[dict[str, Any]] = [
    {},
    {"activation": "relu"},
    {"activation": "elu", "first_activated": 16},
]


def norm_inputs(
    rows: int = 5,
    size: int = 16,
    outputs: int = 48,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Arguments of `norm_linear` by name."""
    draw = drawing(dtype, seed)
    return {
        "x": draw(rows, size),
        "gain": draw(size),
        "shift": draw(size),
        "weight": draw(outputs, size, scale=size**-0.5),
        "bias": draw(outputs),
    }


def add_inputs(
    rows: int = 5,
    size: int = 48,
    inputs: int = 16,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Arguments of `add_linear` by name."""
    draw = drawing(dtype, seed)
    return {
        "x": draw(rows, size),
        "h": draw(rows, inputs),
        "weight": draw(size, inputs, scale=inputs**-0.5),
        "bias": draw(size),
    }


def drawing(dtype: torch.dtype, seed: int) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return drawn.to(dtype).requires_grad_()

    return draw


OPERATORS = [(norm_linear, norm_inputs), (add_linear, add_inputs)]
both = pytest.mark.parametrize(("operator", "inputs"), OPERATORS, ids=["norm", "add"])


def by_formula(activation="none", first_activated=0, **arguments: Tensor) -> np.ndarray:
    """The module's formula in NumPy, without dropout."""
    numbers = {name: each.detach().double().numpy() for name, each in arguments.items()}
    x, weight, bias = (numbers[name] for name in ("x", "weight", "bias"))
    if "h" in numbers:
        return x + numbers["h"] @ weight.T + bias
    centred = x - x.mean(1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    h = (normal * numbers["gain"] + numbers["shift"]) @ weight.T + bias
    part = h[:, first_activated:]
    if activation == "relu":
        h[:, first_activated:] = np.maximum(part, 0)
    elif activation == "elu":
        h[:, first_activated:] = np.where(part > 0, part, np.expm1(np.minimum(part, 0)))
    return h


def with_gradients(
    operator: Operator, arguments: dict[str, Tensor], seed: int = 0, **options: Any
) -> list[Tensor]:
    torch.manual_seed(seed)
    output = operator(**arguments, **options)
    upstream = torch.arange(output.numel()).sin().to(output.dtype).view_as(output)
    return [output, *torch.autograd.grad(output, list(arguments.values()), upstream)]


def test_norm_linear_by_hand(backend):
    # A row of -1 and 1 is normal already; the map doubles it and adds 1.
    sign = torch.ones(16).double()
    sign[::2] = -1
    eye, one = torch.eye(16).double(), torch.ones(16).double()
    arguments = sign[None], one, 0 * one, 2 * eye, one
    for activation, low in (("none", -1), ("relu", 0), ("elu", math.exp(-1) - 1)):
        found = norm_linear(*arguments, activation=activation, backend=backend)
        expected = torch.where(sign > 0, 3, low).double()
        torch.testing.assert_close(found[0], expected, rtol=2e-5, atol=2e-5)


def test_add_linear_by_hand(backend):
    x, h = torch.full((2, 16), 10.0), torch.arange(32.0).view(2, 16)
    found = add_linear(x, h, 3 * torch.eye(16), torch.ones(16), backend=backend)
    torch.testing.assert_close(found, 11 + 3 * h)


@pytest.mark.parametrize("options", ACTIVATIONS, ids=str)
def test_norm_linear_formula(backend, options):
    arguments = norm_inputs(60)
    found = norm_linear(**arguments, **options, backend=backend)
    expected = by_formula(**arguments, **options)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-9, atol=1e-11)


@both
@pytest.mark.parametrize("threshold", [1, 77, 255])
def test_dropout_by_bytes(operator, inputs, backend, threshold, monkeypatch):
    arguments, drawn = inputs(60), []
    module = sys.modules[operator.__module__]
    real = module.random_bytes

    def kept(*about):
        drawn.append(real(*about))
        return drawn[-1]

    monkeypatch.setattr(module, "random_bytes", kept)
    options = {"activation": "relu"} if operator is norm_linear else {}
    found = operator(**arguments, **options, threshold=threshold, backend=backend).detach()
    (byte,) = drawn
    factors = (byte.numpy() >= threshold) * 256 / (256 - threshold)
    rest = 0 if operator is norm_linear else arguments["x"].detach().numpy()
    expected = rest + factors * (by_formula(**arguments, **options) - rest)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@both
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 130),
    st.sampled_from([16, 48, 80, 144]),
    st.sampled_from([16, 48, 80, 144]),
    st.sampled_from([0, 50]),
    st.sampled_from(ACTIVATIONS),
    st.integers(0, 10**6),
)
def test_any_sizes(operator, inputs, rows, size, others, threshold, options, seed):
    arguments = inputs(rows, size, others, seed=seed)
    if operator is add_linear:
        options = {}
    elif threshold:
        options = {"activation": "relu"}
    options = {**options, "threshold": threshold}
    reference = with_gradients(operator, arguments, **options, backend="reference")
    if not options.pop("threshold"):
        np.testing.assert_allclose(
            reference[0].detach(), by_formula(**arguments, **options), rtol=1e-8, atol=1e-10
        )
    if library.problem("cpu") is None:
        options["threshold"] = threshold
        found = with_gradients(operator, arguments, **options, backend="fused")
        torch.testing.assert_close(found, reference)


@pytest.mark.parametrize(
    "options", [*ACTIVATIONS, {"activation": "relu", "threshold": 99}], ids=str
)
def test_gradcheck_of_norm_linear(backend, options):
    gradcheck(norm_linear, norm_inputs(3), options | {"backend": backend})


@pytest.mark.parametrize("threshold", [0, 99])
def test_gradcheck_of_add_linear(backend, threshold):
    gradcheck(add_linear, add_inputs(3), {"threshold": threshold, "backend": backend})


def gradcheck(operator, arguments, options):
    def run(*given):
        torch.manual_seed(0)
        return operator(**dict(zip(arguments, given, strict=True)), **options)

    assert torch.autograd.gradcheck(run, list(arguments.values()), fast_mode=True)


@both
def test_large_numbers_stay_finite(operator, inputs, backend):
    arguments = inputs(dtype=torch.float32)
    arguments["x"] = (1e6 * arguments["x"].detach()).requires_grad_()
    found = with_gradients(operator, arguments, backend=backend)
    assert all(torch.isfinite(each).all() for each in found)


@both
def test_nan_stays_in_its_rows(operator, inputs, backend):
    arguments = inputs(60)
    with torch.no_grad():
        arguments["x" if operator is norm_linear else "h"][50, 3] = math.nan
    found = operator(**arguments, backend=backend)
    assert found[50].isnan().all()
    assert torch.isfinite(found[torch.arange(60) != 50]).all()


@both
def test_float32_is_as_accurate_as_torch(operator, inputs, backend):
    exact = inputs(1600, 64, 192)
    single = {name: each.detach().float().requires_grad_() for name, each in exact.items()}
    true = with_gradients(operator, exact, backend="reference")
    theirs = with_gradients(operator, single, backend="reference")
    for own, other, right in zip(
        with_gradients(operator, single, backend=backend), theirs, true, strict=True
    ):
        bound = 3 * (other - right).abs().max() + 1e-6 * right.abs().max()
        assert (own - right).abs().max() <= bound


@both
def test_auto_runs_the_reference_for_unsupported_arguments(operator, inputs, monkeypatch):
    logged = []
    monkeypatch.setattr(library, "warn_once", logged.append)
    arguments = inputs(5, 20)
    found = operator(**arguments)
    np.testing.assert_allclose(found.detach(), by_formula(**arguments), rtol=1e-8, atol=1e-10)
    if library.problem("cpu") is None:
        message = "the compiled linear maps take sizes that are multiples of 16, got 20"
        assert logged == [message]
        with pytest.raises(RuntimeError, match=f"backend='fused': {message}"):
            operator(**arguments, backend="fused")


@both
def test_autocast(operator, inputs):
    arguments = inputs(60, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = operator(**arguments).detach().float()
        if library.problem("cpu") is None:
            with pytest.raises(RuntimeError, match="do not run under autocast"):
                operator(**arguments, backend="fused")
    exact = torch.from_numpy(by_formula(**arguments)).float()
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.1)
    assert (found - exact).abs().max() > 1e-4  # the product was of lower precision


@both
def test_unknown_backend_raises(operator, inputs):
    with pytest.raises(ValueError, match="'reference' or 'fused', got 'fast'"):
        operator(**inputs(), backend="fast")


def test_wrong_options_raise():
    arguments = norm_inputs()
    with pytest.raises(ValueError, match="activation must be 'none', 'relu' or 'elu', got 'tanh'"):
        norm_linear(**arguments, activation="tanh")
    for options in ({}, {"activation": "elu"}, {"activation": "relu", "first_activated": 16}):
        with pytest.raises(ValueError, match="follows a ReLU of all outputs"):
            norm_linear(**arguments, **options, threshold=3)


@needs_library
class TestCompiled:
    @both
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_every_instruction_set(self, operator, inputs, instruction_set, dtype):
        relu = {"activation": "relu"} if operator is norm_linear else {}
        elu = ACTIVATIONS[2] if operator is norm_linear else {}
        for sizes, options in (
            ((16, 64), {}),
            ((64, 256), relu | {"threshold": 60}),
            ((112, 48), elu),
        ):
            arguments = inputs(100, *sizes, dtype)
            reference = with_gradients(operator, arguments, **options, backend="reference")
            found = with_gradients(operator, arguments, **options, backend="fused")
            tolerance = 1e-10 if dtype == torch.float64 else 2e-5
            for own, other in zip(found, reference, strict=True):
                scale = other.abs().max().item()
                torch.testing.assert_close(own, other, rtol=0, atol=tolerance * scale)

    @both
    def test_results_do_not_depend_on_the_number_of_threads(self, operator, inputs):
        arguments = inputs(7000, 32, 64, torch.float32)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                results.append(with_gradients(operator, arguments, backend="fused"))
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(map(torch.equal, other, results[0]))

    @both
    def test_rows_need_not_be_contiguous(self, operator, inputs):
        arguments = inputs()
        strided = {name: torch.stack([each] * 2, -1)[..., 0] for name, each in arguments.items()}
        found, expected = (operator(**each, backend="fused") for each in (strided, arguments))
        assert torch.equal(found, expected)

    @both
    def test_only_required_gradients_are_returned(self, operator, inputs):
        arguments = inputs()
        arguments["x"], arguments["bias"] = arguments["x"].detach(), arguments["bias"].detach()
        operator(**arguments, backend="fused").sum().backward()
        for name, each in arguments.items():
            assert (each.grad is None) == (name in ("x", "bias"))

    @staticmethod
    def arguments_of(inputs, **changed):
        arguments = {name: each.detach() for name, each in inputs().items()}
        arguments["bytes"] = torch.arange(240, dtype=torch.uint8).view(5, 48)
        if inputs is norm_inputs:
            options = {"threshold": 77, "epsilon": 1e-5, "activation": 1, "first_activated": 0}
        else:
            options = {"threshold": 77}
        return list((arguments | options | changed).values())

    def test_opcheck(self):
        operators = torch.ops.emorec
        for inputs, forward, backward in (
            (norm_inputs, operators.norm_linear_fwd, operators.norm_linear_bwd),
            (add_inputs, operators.add_linear_fwd, operators.add_linear_bwd),
        ):
            for changed in ({}, {"bytes": None, "threshold": 0}):
                arguments = self.arguments_of(inputs, **changed)
                torch.library.opcheck(forward, arguments)
                output = forward(*arguments)
                if inputs is norm_inputs:
                    of_backward = [torch.ones_like(output), output, *arguments]
                else:
                    _, h, weight, _, *rest = arguments
                    of_backward = [torch.ones_like(output), h, weight, *rest]
                torch.library.opcheck(backward, of_backward)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"x": torch.zeros(5, 16).half()}, "rows must be float32 or float64"),
            ({"x": torch.zeros(5, 2, 8).double()}, "rows and weight must have two dimensions"),
            ({"x": torch.zeros(5, 32).double()}, "gain must be contiguous, and of the dtype and"),
            ({"gain": torch.zeros(16)}, "gain must be contiguous"),
            ({"shift": torch.zeros(17).double()}, "shift must be contiguous"),
            ({"weight": torch.zeros(64, 16).double()}, "bias must be contiguous"),
            ({"weight": torch.zeros(50, 16).double()}, "sizes must be multiples of 16, got 50"),
            ({"bytes": torch.zeros(5, 48)}, "bytes must be contiguous"),
            ({"bytes": None}, "bytes come with a threshold from 1 to 255"),
            ({"threshold": 256}, "bytes come with a threshold from 1 to 255"),
            ({"activation": 3}, "activation must be 0, 1 or 2, got 3"),
            ({"activation": 2}, "dropout follows a ReLU of all outputs"),
            ({"first_activated": 8}, "first_activated must be a multiple of 16 up to 48, got 8"),
            ({"first_activated": 64}, "first_activated must be a multiple of 16 up to 48, got 64"),
        ],
    )
    def test_invalid_arguments_of_norm_linear_raise(self, changed, message):
        with pytest.raises(RuntimeError, match=f"norm_linear: {message}"):
            torch.ops.emorec.norm_linear_fwd(*self.arguments_of(norm_inputs, **changed))

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"h": torch.zeros(5, 16).half()}, "rows must be float32 or float64"),
            ({"x": torch.zeros(4, 48).double()}, "x must be contiguous"),
            ({"weight": torch.zeros(48, 32).double()}, "weight must be contiguous"),
            ({"weight": torch.zeros(40, 16).double()}, "sizes must be multiples of 16, got 40"),
            ({"bias": torch.zeros(48)}, "bias must be contiguous"),
            ({"bytes": torch.zeros(5, 16, dtype=torch.uint8)}, "bytes must be contiguous"),
            ({"threshold": 0}, "bytes come with a threshold from 1 to 255"),
        ],
    )
    def test_invalid_arguments_of_add_linear_raise(self, changed, message):
        with pytest.raises(RuntimeError, match=f"add_linear: {message}"):
            torch.ops.emorec.add_linear_fwd(*self.arguments_of(add_inputs, **changed))
