from __future__ import annotations

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emorec.ops import library
from emorec.ops.softmax_loss import softmax_loss
from tests.ops.operators import needs_library


def inputs(num_states=7, num_items=5, size=3, num_targets=1, dtype=torch.float64):
    """State, items, targets and which of them count, at least one in a row."""
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(num_states, size, generator=generator, dtype=dtype, requires_grad=True)
    items = torch.randn(num_items, size, generator=generator, dtype=dtype, requires_grad=True)
    target = torch.randint(num_items, (num_states, num_targets), generator=generator)
    wanted = torch.rand(num_states, num_targets, generator=generator) < 0.6
    wanted[:, 0] = True
    return state, items, target, wanted


def by_cross_entropy(state: Tensor, items: Tensor, target: Tensor, wanted: Tensor) -> Tensor:
    """The same loss from all scores: a state with several targets is as many states."""
    row = wanted.nonzero()[:, 0]
    return F.cross_entropy((state @ items.T)[row], target[wanted])


def with_gradients(
    loss: Callable[..., Tensor], state: Tensor, items: Tensor, *rest
) -> list[Tensor]:
    value = loss(state, items, *rest)
    return [value, *torch.autograd.grad(value, (state, items))]


def test_by_hand(backend):
    # Scores log 3 and 0: the target's probability is 3/4, then 1/4.
    state, items = torch.tensor([[1.0]]), torch.tensor([[math.log(3)], [0.0]])
    counts = torch.tensor([[True]])
    for target, expected in ((0, math.log(4 / 3)), (1, math.log(4))):
        loss = softmax_loss(state, items, torch.tensor([[target]]), counts, backend)
        assert loss.item() == pytest.approx(expected)


def test_equal_scores(backend):
    state, items, target = torch.zeros(2, 3), torch.ones(8, 3), torch.tensor([[0], [5]])
    loss = softmax_loss(state, items, target, torch.ones(2, 1, dtype=torch.bool), backend)
    assert loss.item() == pytest.approx(math.log(8))


# Less than a vector, a tile, a panel; whole ones; several chunks with a rest.
@pytest.mark.parametrize("num_states", [1, 6, 25, 230])
@pytest.mark.parametrize("num_items", [1, 16, 61, 300])
@pytest.mark.parametrize("size", [1, 8, 21, 64])
def test_equals_torch(backend, num_states, num_items, size):
    case = inputs(num_states, num_items, size, num_targets=3)
    ours = with_gradients(lambda *a: -2.5 * softmax_loss(*a, backend), *case)
    theirs = with_gradients(lambda *a: -2.5 * by_cross_entropy(*a), *case)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("chunk_scores", [1, 10, 15, 10**6])
def test_any_chunk_of_the_reference(monkeypatch, chunk_scores):
    monkeypatch.setattr(sys.modules[softmax_loss.__module__], "_CHUNK_SCORES", chunk_scores)
    case = inputs(num_targets=2)
    ours = with_gradients(lambda *a: softmax_loss(*a, "reference"), *case)
    torch.testing.assert_close(ours, with_gradients(by_cross_entropy, *case))


def test_gradcheck(backend):
    state, items, target, wanted = inputs(num_states=9, num_targets=2)
    assert torch.autograd.gradcheck(
        lambda x, v: softmax_loss(x, v, target, wanted, backend), (state, items)
    )


def test_a_target_may_come_twice(backend):
    state, items, _, _ = inputs(num_states=3)
    target = torch.tensor([[0, 4, 4], [2, 1, 0], [3, 3, 3]])
    wanted = torch.tensor([[True, True, True], [False, True, False], [True, False, True]])
    ours = with_gradients(lambda *a: softmax_loss(*a, backend), state, items, target, wanted)
    torch.testing.assert_close(ours, with_gradients(by_cross_entropy, state, items, target, wanted))


def test_one_state_one_item(backend):
    loss, *gradients = with_gradients(lambda *a: softmax_loss(*a, backend), *inputs(1, 1))
    assert loss.item() == pytest.approx(0)
    assert all(g.abs().sum() == 0 for g in gradients)


def test_large_scores_stay_finite(backend):
    state = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    items = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    counts = torch.ones(2, 1, dtype=torch.bool)
    loss, *gradients = with_gradients(
        lambda *a: softmax_loss(*a, backend), state, items, torch.tensor([[0], [0]]), counts
    )
    assert loss.item() == pytest.approx(300)  # 0 and 600, averaged
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("broken", ["state", "items"])
def test_nan_propagates(backend, broken):
    case = dict(zip(("state", "items", "target", "wanted"), inputs(), strict=True))
    with torch.no_grad():
        case[broken][2, 1] = math.nan
    assert softmax_loss(**case, backend=backend).isnan()


def test_float32_is_as_accurate_as_torch(backend):
    exact = inputs(200, 700, 64, num_targets=3)
    wanted = with_gradients(by_cross_entropy, *exact)
    single = [each.detach().float().requires_grad_() for each in exact[:2]] + list(exact[2:])
    ours = with_gradients(lambda *a: softmax_loss(*a, backend), *single)
    theirs = with_gradients(by_cross_entropy, *single)
    for own, other, true in zip(ours, theirs, wanted, strict=True):
        assert (own - true).abs().max() <= 3 * (other - true).abs().max() + 1e-7 * true.abs().max()


@needs_library
def test_auto_runs_the_reference_for_unsupported_arguments():
    state, items, target, wanted = inputs(dtype=torch.bfloat16)
    assert softmax_loss(state, items, target, wanted).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match=r"backend='fused': .* torch.bfloat16 on cpu"):
        softmax_loss(state, items, target, wanted, backend="fused")


def test_unknown_backend_raises():
    with pytest.raises(ValueError, match="'reference' or 'fused', got 'fast'"):
        softmax_loss(*inputs(), backend="fast")


def test_missing_library_is_logged_and_fused_raises(monkeypatch):
    monkeypatch.setattr(library, "load", lambda: {"cpu": "it is not built (a test)"})
    logged = []
    monkeypatch.setattr(library, "warn_once", logged.append)
    expected = softmax_loss(*inputs(), backend="reference")
    assert logged == []
    assert softmax_loss(*inputs()) == expected
    assert logged == ["it is not built (a test)"]
    with pytest.raises(RuntimeError, match="backend='fused': it is not built"):
        softmax_loss(*inputs(), backend="fused")


@needs_library
class TestOperator:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_every_instruction_set(self, instruction_set, dtype):
        case = inputs(130, 277, 20, num_targets=3, dtype=dtype)
        ours = with_gradients(lambda *a: softmax_loss(*a, "fused"), *case)
        torch.testing.assert_close(ours, with_gradients(by_cross_entropy, *case))

    def test_results_do_not_depend_on_the_number_of_threads(self):
        case = inputs(400, 700, 24, num_targets=3, dtype=torch.float32)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 4):
                torch.set_num_threads(threads)
                results.append(with_gradients(lambda *a: softmax_loss(*a, "fused"), *case))
        finally:
            torch.set_num_threads(before)
        for other in results[1:]:
            assert all(map(torch.equal, other, results[0]))

    def test_rows_need_not_be_contiguous(self):
        state, items, target, wanted = inputs(num_items=7, num_targets=2)
        strided = (state.T.contiguous().T, items.T.contiguous().T, target, wanted)
        assert softmax_loss(*strided, "fused") == softmax_loss(
            state, items, target, wanted, "fused"
        )

    def test_opcheck(self):
        arguments = [each.detach() for each in inputs(num_targets=2)]
        torch.library.opcheck(torch.ops.emorec.softmax_loss, arguments)

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"target": torch.full((7, 1), 5)}, "target 5 is out of range for 5 items"),
            ({"target": torch.full((7, 1), -1)}, "target -1 is out of range for 5 items"),
            ({"wanted": torch.zeros(7, 1, dtype=torch.bool)}, "no target counts"),
            ({"items": torch.zeros(5, 4, dtype=torch.float64)}, "items must be contiguous"),
            ({"items": torch.zeros(5, 3)}, "items must be contiguous"),
            ({"target": torch.zeros(7, 1)}, "target must be contiguous"),
            ({"state": torch.zeros(7, 3).half()}, "state must be float32 or float64"),
        ],
    )
    def test_invalid_arguments_raise(self, changed, message):
        case = dict(zip(("state", "items", "target", "wanted"), inputs(), strict=True)) | changed
        with pytest.raises(RuntimeError, match=message):
            torch.ops.emorec.softmax_loss(*(each.detach() for each in case.values()))


def test_no_states_raise(backend: str) -> None:
    arrays = np.zeros((0, 4), np.float32), np.zeros((0, 1), np.int64), np.zeros((0, 1), bool)
    state, target, wanted = (torch.from_numpy(array) for array in arrays)
    with pytest.raises(ValueError, match="at least one row: the mean over no target is undefined"):
        softmax_loss(state, torch.ones(5, 4), target, wanted, backend)


def test_more_scores_than_a_chunk_holds(backend: str) -> None:
    num_states, num_items = 1200, 2000
    state, items, target, wanted = inputs(num_states, num_items, size=4)
    losses = (
        softmax_loss(state, items, target, wanted, backend),
        F.cross_entropy(state @ items.T, target[:, 0]),
    )
    found, expected = (torch.autograd.grad(loss, [state, items]) for loss in losses)
    torch.testing.assert_close(*losses)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
