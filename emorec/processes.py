"""Training on several processes: the only module that talks to torch.distributed.

`torchrun` starts the processes and tells each its number, which `joined` reads from the
environment. A `World` sums, gathers and copies tensors over all of them; with one process, `ALONE`,
its operations change nothing and nothing of torch.distributed is set up.

A process that ends takes all others with it. Each one has a thread that counts up a number in the
store that torchrun keeps, so that the others can say which one is gone.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["ALONE", "ProcessError", "World", "joined"]

_LONGEST_START = 120.0  # seconds that processes wait for each other at the start
_BEAT, _WITHOUT_BEAT = 0.5, 3.0  # seconds
_SENT = (torch.int64, torch.int8)  # types of tensors from process to process


class ProcessError(ConnectionError):
    """Another process is gone or cannot be reached; the message says which."""


class World:
    """The processes that train one model together.

    Args:
        rank: Number of this one, from 0.
        size: How many there are.
        store: torch.distributed's store of keys and values; None with one process.
        end: Closes the connection.

    Attributes:
        bytes_sent: What this process has sent in sums, gathers and copies, in bytes: a sum over
            ``n`` processes sends ``2 (n - 1) / n`` of its size, a gather ``n - 1`` times its own.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: Any = None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank, self.size, self._store = rank, size, store
        self.bytes_sent = 0
        self._end: Callable[[], None] | None = end

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Replaces a tensor by its sum over all processes; all get the same bits."""
        return self._reduced(x, "SUM")

    def maximum(self, x: Tensor) -> Tensor:
        """Replaces a tensor by its maximum over all processes, element by element."""
        return self._reduced(x, "MAX")

    def total(self, x: Tensor) -> Tensor:
        """The sum over all processes, differentiable.

        Its gradient is the sum of the processes' gradients, so that the losses of all processes add
        up to one. Every process must call `backward` on what it made of the sum.
        """
        return x if self.size == 1 else _Total.apply(x, self)

    def gather(self, x: Tensor) -> list[Tensor]:
        """The tensors of all processes, which may differ in their first dimension."""
        if self.size == 1:
            return [x]
        lengths = torch.zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(x)
        longest = int(self.sum(lengths).max())
        padded = x.new_zeros(longest, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        self.bytes_sent += (self.size - 1) * padded.nbytes
        self._call(lambda dist: dist.all_gather(parts, padded))
        return [part[:length] for part, length in zip(parts, lengths.tolist(), strict=True)]

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Replaces tensors by those of the first process."""
        if self.size == 1:
            return
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            self.bytes_sent += whole.nbytes if self.is_first else 0
            self._call(partial(_broadcast, whole))
            if whole.data_ptr() != tensor.data_ptr():
                tensor.detach().copy_(whole)

    def first_says(self, text: str) -> str:
        """The text that the first process gives."""
        if self.size == 1:
            return text
        content = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())
        length = torch.tensor(len(content))
        self.copy_first([length])
        said = content if self.is_first else torch.empty(int(length), dtype=torch.uint8)
        self.copy_first([said] if length else [])
        return said.numpy().tobytes().decode()

    def send(self, x: Tensor, rank: int) -> None:
        """Sends another process, which must call `receive`, a tensor ``[N]`` on the CPU."""
        kind = torch.tensor([len(x), _SENT.index(x.dtype)])
        for each in (kind, x.contiguous())[: 1 + bool(len(x))]:
            self.bytes_sent += each.nbytes
            self._call(partial(_send, each, rank))

    def receive(self) -> Tensor:
        """What the first process sends this one."""
        kind = torch.zeros(2, dtype=torch.int64)
        self._call(partial(_receive, kind))
        x = torch.empty(int(kind[0]), dtype=_SENT[int(kind[1])])
        if len(x):
            self._call(partial(_receive, x))
        return x

    def require_same(self, what: dict[str, str]) -> None:
        """Checks that what decides about training is the same in all processes.

        Args:
            what: Texts by what an error calls them.

        Raises:
            ValueError: If a process has another text than the first one; names both.
        """
        if self.size == 1:
            return
        for name, text in what.items():
            digest = torch.tensor(list(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
            found = self.gather(digest[None])
            others = [r for r, each in enumerate(found) if not torch.equal(each, found[0])]
            if others:
                raise ValueError(
                    f"process {others[0]} of {self.size} has other {name} than process 0; start "
                    "all of them with the same command, on the same data"
                )

    def wait(self) -> None:
        """Waits until all processes are here."""
        self.sum(torch.zeros(1))

    def leave(self) -> None:
        """Ends the connection: what follows concerns this process alone."""
        if self._end is not None:
            self._end()
        self._end = None

    @property
    def has_left(self) -> bool:
        """Whether `leave` was called."""
        return self._end is None

    def _reduced(self, x: Tensor, by: str) -> Tensor:
        if self.size > 1:
            self.bytes_sent += 2 * (self.size - 1) * x.nbytes // self.size
            self._call(lambda dist: dist.all_reduce(x, getattr(dist.ReduceOp, by)))
        return x

    def _call(self, operation: Callable[[Any], object]) -> None:
        import torch.distributed as dist

        try:
            operation(dist)
        except RuntimeError as error:
            raise ProcessError(self._what_happened() or f"processes lost touch: {error}") from error

    def _what_happened(self) -> str:
        """Which processes are gone; "" if all are there."""
        try:
            if self._store.check(["reported"]):
                return "another process has stopped and says why"
            keys = [f"beat {rank}" for rank in range(self.size)]
            before, until = self._store.multi_get(keys), time.monotonic() + _WITHOUT_BEAT
            gone = set(range(self.size))
            while gone and time.monotonic() < until and not self._store.check(["reported"]):
                time.sleep(_BEAT / 5)
                now = self._store.multi_get(keys)
                gone = {rank for rank in gone if now[rank] == before[rank]}
            if self._store.check(["reported"]):
                return "another process has stopped and says why"
        except RuntimeError:  # of the store: torchrun's own process, or the first one
            return "the process that connects all others is gone"
        if not gone:
            return ""
        named, is_one = ", ".join(map(str, sorted(gone))), len(gone) == 1
        one_or_more = "process {} of {} is gone" if is_one else "processes {} of {} are gone"
        return one_or_more.format(named, self.size)

    def _is_first_to_report(self) -> bool:
        try:
            return self._store.add("reported", 1) == 1
        except RuntimeError:
            return self.is_first


ALONE = World()
"""The world of one process."""


@contextmanager
def joined(device: str, timeout: float) -> Iterator[World]:
    """Connects the processes that `torchrun` has started; `ALONE` without it.

    An error that several processes have leaves one of them only, so that it is printed once; the
    others end with the exit code 1.

    Args:
        device: "cpu" or "cuda", where each process takes the GPU of its number on its machine.
        timeout: Seconds that a process waits for another one.

    Raises:
        ProcessError: If the others cannot be reached, or one of them is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    world = _connected(device, timeout)
    try:
        yield world
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if world.has_left:
            raise
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's; this one ends anyway
        problem: BaseException = error
        if isinstance(error, _Terminated):
            gone = world._what_happened()
            if not gone:
                raise SystemExit(128 + signal.SIGTERM) from None
            problem = ProcessError(gone)
        if not world._is_first_to_report():
            raise SystemExit(1) from None
        if isinstance(problem, ProcessError):
            raise ProcessError(
                f"{problem}, so all have stopped. All finished epochs are saved: the same command "
                "goes on from the last one, and torchrun --max-restarts=3 would do so by itself"
            ) from error
        raise
    finally:
        world.leave()


class _Terminated(BaseException):
    """SIGTERM: torchrun ends the processes that are left when one of them has failed."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _connected(device: str, timeout: float) -> World:
    import torch.distributed as dist

    # Imported by an optimizer's first step, it would take the group as default arguments, which
    # outlive it: with gloo's threads, which abort Python if it ends while they release a tensor.
    import torch.distributed.nn.functional

    environment = os.environ
    rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    patience = min(timeout, _LONGEST_START)
    host, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    place = f"{host}:{port}"
    # Without torchrun, the first process keeps the store itself.
    if rank or environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        if not _can_be_reached(host, port, patience):
            raise ProcessError(
                f"process {rank} of {size} cannot reach {place}, where all meet (waited "
                f"{patience:g} s); check --rdzv-endpoint, and that its port is open"
            )
    try:
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=patience)))
    except RuntimeError as error:
        raise ProcessError(
            f"process {rank} of {size} waited {patience:g} s at {place}, and not all came; is "
            "torchrun running on every machine?"
        ) from error
    store = dist.PrefixStore(f"emorec {environment.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    with ExitStack() as end:
        end.enter_context(_beating(store, rank))
        until = time.monotonic() + patience
        # Not by store.wait, which would keep the store from the thread.
        while missing := [other for other in range(size) if not store.check([f"beat {other}"])]:
            if time.monotonic() > until:
                raise ProcessError(
                    f"process {rank} of {size} waited {patience:g} s at {place}, and "
                    f"{', '.join(map(str, missing))} did not come; is torchrun running on every "
                    "machine?"
                )
            time.sleep(0.05)
        backend = "gloo"
        if device != "cpu":
            torch.cuda.set_device(int(environment.get("LOCAL_RANK", 0)))
            backend = "cpu:gloo,cuda:nccl"
        allowed = timedelta(seconds=timeout)
        try:
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=allowed
            )
        except RuntimeError as error:
            raise ProcessError(
                f"process {rank} of {size} cannot reach the others: {error}"
            ) from error
        end.callback(dist.destroy_process_group)
        end.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _terminate))
        return World(rank, size, store, end.pop_all().close)


def _can_be_reached(host: str, port: int, patience: float) -> bool:
    """Whether something listens there, within so many seconds; c10d's own try logs pages."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            socket.create_connection((host, port), timeout=patience).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False


@contextmanager
def _beating(store: Any, rank: int) -> Iterator[None]:
    """Within the context, a thread counts up this process's number in the store."""
    end = threading.Event()

    def beat() -> None:
        number = 0
        while not end.wait(_BEAT if number else 0):
            number += 1
            try:
                store.set(f"beat {rank}", str(number))
            except RuntimeError:
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()  # a process that ends within a call of the store is aborted


def _broadcast(x: Tensor, dist: Any) -> None:
    dist.broadcast(x, 0)


def _send(x: Tensor, rank: int, dist: Any) -> None:
    dist.send(x, rank)


def _receive(x: Tensor, dist: Any) -> None:
    dist.recv(x, 0)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world = world
        return world.sum(x.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.world.sum(grad.clone()), None
