"""How many threads compute: those of PyTorch, OpenMP and BLAS, set in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from threadpoolctl import threadpool_limits

__all__ = ["one_blas_thread", "threads", "use_threads"]


def use_threads(number: int) -> None:
    """Lets PyTorch, OpenMP and BLAS use so many threads each; 0 gives all PyTorch's choice."""
    number = number or torch.get_num_threads()
    threadpool_limits(number)
    torch.set_num_threads(number)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """The same for a while; then all have as many as before."""
    before = torch.get_num_threads()
    with threadpool_limits(number or before):
        torch.set_num_threads(number or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def one_blas_thread() -> AbstractContextManager[object]:
    """One thread of BLAS for a while, for many small solves.

    Threads of BLAS wait for each other by spinning. On a solve of 100 x 100 they gain nothing, and
    where other work wants the cores they take over ten times as long as a single one.
    """
    return threadpool_limits(1, "blas")
