"""Runs each compiled operator with each of its allocations failing in turn.

    LD_PRELOAD=failing_allocations.so python failing_allocations.py THREADS

Prints a line for each operator: its name, how many allocations failed, how many of those ended with
an error, and how many calls afterwards gave the same numbers.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from emorec.ops.graph_attention import graph_attention
from emorec.ops.hawkes_attention import hawkes_attention
from emorec.ops.linear import add_linear, norm_linear
from emorec.ops.node_update import node_update
from emorec.ops.softmax_loss import softmax_loss

NEVER = 10**9  # a number that no allocation has
fail_allocation = ctypes.CDLL(None).fail_allocation
fail_allocation.argtypes, fail_allocation.restype = [ctypes.c_long], ctypes.c_long


def attention(query: Tensor, key: Tensor, value: Tensor, rate: Tensor) -> Tensor:
    places, cu_seqlens = torch.arange(120), torch.tensor([0, 50, 50, 120])
    return hawkes_attention(
        query, key, value, places, places, cu_seqlens, rate.abs(), backend="fused"
    )


def graph(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    node, offsets = torch.arange(40, dtype=torch.int32), torch.arange(41, dtype=torch.int32)
    return graph_attention(x, left, right, offsets, node, offsets, node, backend="fused")


def update(others: Tensor, weight: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return node_update(others, weight, gain, shift, [20, 10], backend="fused")


def normed(x: Tensor, weight: Tensor, gain: Tensor) -> Tensor:
    return norm_linear(x, gain, gain, weight, torch.zeros(len(weight)), backend="fused")


def added(x: Tensor, h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return add_linear(x, h, weight, bias, backend="fused")


def softmax(state: Tensor, items: Tensor) -> Tensor:
    target, wanted = torch.arange(60)[:, None] % 50, torch.ones(60, 1, dtype=torch.bool)
    return softmax_loss(state, items, target, wanted, "fused")


SHAPES: dict[Callable[..., Tensor], list[tuple[int, ...]]] = {
    attention: [(120, 2, 16), (120, 2, 16), (120, 2, 16), (2,)],
    graph: [(40, 2, 8), (40, 2), (40, 2)],
    update: [(30, 16), (2, 1, 16, 16), (16,), (16,)],
    normed: [(1000, 16), (32, 16), (16,)],
    added: [(1000, 32), (1000, 16), (32, 16), (32,)],
    softmax: [(60, 16), (50, 16)],
}


def with_gradients(operator: Callable[..., Tensor], arguments: list[Tensor]) -> list[Tensor]:
    result = operator(*arguments)
    return [result.detach(), *torch.autograd.grad(result.sum(), arguments)]


def in_new_thread(call: Callable[[], list[Tensor]], number: int) -> tuple[bool, int]:
    """Whether a call fails with one of its allocations, and how many it has.

    In a new thread, as threads keep their scratch memory.
    """
    found: list[int] = []

    def run() -> None:
        fail_allocation(number)
        try:
            call()
            found.append(False)
        except (MemoryError, RuntimeError):
            found.append(True)
        found.append(fail_allocation(-1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    failed, count = found
    return bool(failed), count


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]))
    generator = torch.Generator().manual_seed(0)
    for operator, shapes in SHAPES.items():
        arguments = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
        call = partial(with_gradients, operator, arguments)
        expected = call()
        _, count = in_new_thread(call, NEVER)
        errors = same = 0
        for number in range(count):
            failed, _ = in_new_thread(call, number)
            errors += failed
            same += all(map(torch.equal, expected, call()))
        print(operator.__name__, count, errors, same, flush=True)


if __name__ == "__main__":
    main()
