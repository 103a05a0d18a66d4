from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from emorec.ops import library
from emorec.ops.node_update import node_update
from tests.ops.operators import needs_library

OPTIONAL = ("own", "bias", "index", "scale")
LEARNED = ("others", "others_weight", "own", "own_weight", "bias", "gain", "shift")


def inputs(
    sizes: Sequence[int] = (3, 0, 2),
    num_terms: int = 2,
    size: int = 16,
    given: Sequence[str] = OPTIONAL,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments by name; of the rows of others some are not named, and some names are none."""
    generator = torch.Generator().manual_seed(seed)
    num_nodes, num_kinds = sum(sizes), len(sizes)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    num_others = num_nodes * num_terms + (2 if "index" in given else 0)
    index = torch.randperm(num_others, generator=generator)[: num_nodes * num_terms]
    index[::5] = -1
    return {
        "own": draw(num_nodes, size) if "own" in given else None,
        "own_weight": draw(num_kinds, size, size) if "own" in given else None,
        "others": draw(num_others, size),
        "others_weight": draw(num_kinds, num_terms, size, size),
        "gain": draw(size),
        "shift": draw(size),
        "sizes": list(sizes),
        "bias": draw(num_kinds, size) if "bias" in given else None,
        "index": index.view(num_nodes, num_terms).int() if "index" in given else None,
        "scale": draw(num_nodes, num_terms).detach() if "scale" in given else None,
    }


def by_formula(
    own, own_weight, others, others_weight, gain, shift, sizes, bias, index, scale, elu=True
):
    """The module's formula node by node, in NumPy."""
    numbers = [own, own_weight, others, others_weight, gain, shift, bias, index, scale]
    own, own_weight, others, others_weight, gain, shift, bias, index, scale = (
        None if each is None else each.detach().double().numpy() for each in numbers
    )
    num_terms = others_weight.shape[1]
    rows = []
    for v, k in enumerate(np.repeat(np.arange(len(sizes)), sizes)):
        h = np.zeros(others.shape[1])
        if bias is not None:
            h = h + bias[k]
        if own is not None:
            h = h + own_weight[k] @ own[v]
        for j in range(num_terms):
            row = v * num_terms + j if index is None else int(index[v, j])
            if row >= 0:
                factor = 1 if scale is None else scale[v, j]
                h = h + factor * others_weight[k, j] @ others[row]
        a = np.where(h > 0, h, np.expm1(np.minimum(h, 0))) if elu else h
        rows.append((a - a.mean()) / np.sqrt(a.var() + 1e-5) * gain + shift)
    return np.array(rows).reshape(-1, others.shape[1])


def with_gradients(arguments: dict[str, Any], **options: Any) -> list[Tensor]:
    output = node_update(**arguments, **options)
    upstream = torch.arange(output.numel()).sin().to(output.dtype).view_as(output)
    learned = [arguments[name] for name in LEARNED if arguments[name] is not None]
    return [output, *torch.autograd.grad(output, learned, upstream)]


def test_by_hand(backend):
    # One node: h is 1 in half of the places and -log 2 in the others, elu(-log 2) = -1/2.
    half = torch.cat([torch.ones(8), torch.zeros(8)])
    others = (half - (1 - half) * math.log(2)).view(1, 16)
    one = torch.ones(16)
    found = node_update(
        others, torch.eye(16).view(1, 1, 16, 16), one, 0 * one, [1], backend=backend
    )
    # Mean 1/4, standard deviation 3/4.
    torch.testing.assert_close(found[0], 2 * half - 1, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("elu", [True, False])
@pytest.mark.parametrize(
    "given", [OPTIONAL, (), ("own", "bias"), ("index",), ("scale",), ("own", "index", "bias")]
)
def test_formula(backend, given, elu):
    arguments = inputs(given=given)
    found = node_update(**arguments, elu=elu, backend=backend)
    expected = by_formula(**arguments, elu=elu)
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([16, 48, 80]),
    st.sets(st.sampled_from(OPTIONAL)),
    st.integers(0, 10**6),
)
def test_any_sizes(sizes, num_terms, size, given, seed):
    arguments = inputs(sizes, num_terms, size, sorted(given), seed=seed)
    reference = with_gradients(arguments, backend="reference")
    np.testing.assert_allclose(
        reference[0].detach(), by_formula(**arguments), rtol=1e-8, atol=1e-10
    )
    if library.problem("cpu") is None:
        torch.testing.assert_close(with_gradients(arguments, backend="fused"), reference)


@pytest.mark.parametrize("elu", [True, False])
@pytest.mark.parametrize("given", [OPTIONAL, ()])
def test_gradcheck(backend, given, elu):
    arguments = inputs((2, 1), given=given)
    names = [name for name in LEARNED if arguments[name] is not None]

    def run(*learned):
        changed = arguments | dict(zip(names, learned, strict=True))
        return node_update(**changed, elu=elu, backend=backend)

    assert torch.autograd.gradcheck(run, [arguments[name] for name in names], fast_mode=True)


def test_rows_that_are_side_by_side(backend):
    # As many users have all their nodes: every tile's rows follow one another, but for one user's.
    arguments = inputs((100,), 3, given=("own", "index"))
    index = torch.arange(300, dtype=torch.int32).view(3, 100).T.contiguous()
    index[70, 1] = -1
    arguments["index"] = index
    found = with_gradients(arguments, backend=backend)
    np.testing.assert_allclose(found[0].detach(), by_formula(**arguments), rtol=1e-8, atol=1e-10)
    grad_others = found[1]
    assert grad_others[170].tolist() == [0] * 16  # of the row that is not named
    assert grad_others[171].abs().sum() > 0
    torch.testing.assert_close(found, with_gradients(arguments, backend="reference"))


def test_large_numbers_stay_finite(backend):
    arguments = inputs(dtype=torch.float32)
    arguments["others"] = (1e6 * arguments["others"].detach()).requires_grad_()
    assert all(torch.isfinite(each).all() for each in with_gradients(arguments, backend=backend))


def test_nan_stays_in_its_rows(backend):
    arguments = inputs((4,), 1, given=("own",))
    with torch.no_grad():
        arguments["own"][2, 3] = math.nan
    found = node_update(**arguments, backend=backend)
    assert found[2].isnan().all()
    assert torch.isfinite(found[[0, 1, 3]]).all()


def test_float32_is_as_accurate_as_torch(backend):
    exact = inputs((700, 900), 2, 64)
    single = {
        name: each.detach().float().requires_grad_(each.requires_grad)
        if isinstance(each, Tensor) and each.is_floating_point()
        else each
        for name, each in exact.items()
    }
    true = with_gradients(exact, backend="reference")
    theirs = with_gradients(single, backend="reference")
    for own, other, right in zip(
        with_gradients(single, backend=backend), theirs, true, strict=True
    ):
        bound = 3 * (other - right).abs().max() + 1e-6 * right.abs().max()
        assert (own - right).abs().max() <= bound


def test_auto_runs_the_reference_for_unsupported_arguments(monkeypatch):
    logged = []
    monkeypatch.setattr(library, "warn_once", logged.append)
    arguments = inputs(size=20)
    found = node_update(**arguments)
    np.testing.assert_allclose(found.detach(), by_formula(**arguments), rtol=1e-8, atol=1e-10)
    if library.problem("cpu") is None:
        assert logged == ["the compiled update takes sizes that are multiples of 16, got 20"]
        with pytest.raises(RuntimeError, match=r"backend='fused': .* multiples of 16, got 20"):
            node_update(**arguments, backend="fused")


def test_unknown_backend_raises():
    with pytest.raises(ValueError, match="'reference' or 'fused', got 'fast'"):
        node_update(**inputs(), backend="fast")


@needs_library
class TestOperator:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_every_instruction_set(self, instruction_set, dtype):
        for size in (16, 64, 112):
            arguments = inputs((70, 30), 2, size, dtype=dtype)
            reference = with_gradients(arguments, backend="reference")
            found = with_gradients(arguments, backend="fused")
            tolerance = 1e-10 if dtype == torch.float64 else 2e-5
            for own, other in zip(found, reference, strict=True):
                scale = other.abs().max().item()
                torch.testing.assert_close(own, other, rtol=0, atol=tolerance * scale)

    def test_results_do_not_depend_on_the_number_of_threads(self):
        arguments = inputs((4000, 100, 3000), 2, 32, dtype=torch.float32)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                results.append(with_gradients(arguments, backend="fused"))
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(map(torch.equal, other, results[0]))

    def test_rows_need_not_be_contiguous(self):
        arguments = inputs()
        strided = arguments | {
            name: each.T.contiguous().T
            for name in ("own", "others", "bias", "scale")
            if (each := arguments[name]) is not None
        }
        strided["index"] = arguments["index"].T.contiguous().T
        for name in ("gain", "shift"):
            strided[name] = torch.stack([arguments[name]] * 2, 1)[:, 0]
        found, expected = (node_update(**each, backend="fused") for each in (strided, arguments))
        assert torch.equal(found, expected)

    def test_only_required_gradients_are_returned(self):
        arguments = inputs()
        for name in ("own", "gain"):
            arguments[name] = arguments[name].detach()
        node_update(**arguments, backend="fused").sum().backward()
        assert arguments["own"].grad is arguments["gain"].grad is None
        assert all(arguments[name].grad is not None for name in ("own_weight", "others", "shift"))

    @staticmethod
    def arguments_of_operator(**changed):
        arguments = inputs() | changed
        names = "others", "others_weight", "own", "own_weight", "index", "scale", "gain"
        given = [arguments[name] for name in names]
        given[5] = None if given[5] is None else given[5].T.contiguous()
        given = [each.detach() if isinstance(each, Tensor) else each for each in given]
        offsets = torch.tensor([0, *np.cumsum(arguments["sizes"])])
        return [*given, arguments.get("kind_offsets", offsets)], arguments

    @pytest.mark.parametrize("given", [OPTIONAL, ()])
    def test_opcheck(self, given):
        in_both, arguments = self.arguments_of_operator(**inputs(given=given))
        bias = None if arguments["bias"] is None else arguments["bias"].detach()
        forward = [*in_both, bias, arguments["shift"].detach(), 1e-5, True]
        torch.library.opcheck(torch.ops.emorec.node_update_fwd, forward)
        output, *saved = torch.ops.emorec.node_update_fwd(*forward)
        backward = (torch.ones_like(output), *in_both, *saved, True)
        torch.library.opcheck(torch.ops.emorec.node_update_bwd, backward)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"others": torch.zeros(12, 16).half()}, "others must be float32 or float64"),
            ({"own": torch.zeros(4, 16).double()}, "own must be contiguous, and of the dtype and"),
            ({"own": torch.zeros(5, 16)}, "own must be contiguous"),
            ({"own_weight": None}, "own and own_weight come together"),
            ({"others": torch.zeros(12, 20).double()}, "others must be contiguous"),
            ({"others_weight": torch.zeros(3, 16, 16).double()}, r"must be \[K, J, D, D\]"),
            ({"others_weight": torch.zeros(3, 2, 8, 8).double()}, "a multiple of 16, got 8"),
            ({"index": torch.zeros(5, 2, dtype=torch.int32)}, "index 0 comes twice"),
            (
                {"index": torch.full((5, 2), 12, dtype=torch.int32)},
                "12 is out of range for 12 rows",
            ),
            ({"index": torch.zeros(5, 2)}, "index must be contiguous"),
            ({"scale": torch.zeros(5, 3).double()}, "scale must be contiguous"),
            ({"kind_offsets": torch.tensor([0, 3, 2, 5])}, "kind_offsets must rise from 0"),
            ({"kind_offsets": torch.tensor([0, 5])}, "kind_offsets must be contiguous"),
        ],
    )
    def test_invalid_arguments_raise(self, changed, message):
        in_both, arguments = self.arguments_of_operator(**changed)
        with pytest.raises(RuntimeError, match=message):
            torch.ops.emorec.node_update_fwd(
                *in_both, arguments["bias"].detach(), arguments["shift"].detach(), 1e-5, True
            )
