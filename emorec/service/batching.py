"""Requests that are answered together: one call for those that wait at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

__all__ = ["Batcher"]

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")


class Batcher(Generic[Ask, Answer]):
    """Calls a function for all that waits, in a thread of its own, one call at a time.

    While a call runs, requests collect for the next one: nobody waits for company, and under load
    the batches grow by themselves.

    Args:
        answer: Answers in the order of what was asked. If it fails, all who asked get its error.
        most: Requests of a call.
        name: Of the thread.

    Attributes:
        thread: Runs the calls, and whatever else must not run beside them.
    """

    def __init__(
        self, answer: Callable[[Sequence[Ask]], Sequence[Answer]], most: int, name: str
    ) -> None:
        self._answer, self._most = answer, most
        self._waiting: list[tuple[Ask, asyncio.Future[Answer]]] = []
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, ask: Ask) -> Answer:
        """The answer to one request."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((ask, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            asks = [ask for ask, _ in batch]
            try:
                answers = await loop.run_in_executor(self.thread, self._answer, asks)
            except Exception as error:  # whatever it is belongs to those who asked
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():  # its caller may be gone
                    future.set_result(answer)

    def close(self) -> None:
        """Waits for the call that runs."""
        self.thread.shutdown()
