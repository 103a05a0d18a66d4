"""Requests that are answered together."""

from __future__ import annotations

import asyncio
import threading

import pytest

from emorec.service.batching import Batcher


def answers(asks, cancelled=()):
    """What each of some requests gets that wait at once, and the batches that were made of them."""
    batches, may_answer = [], threading.Event()

    def doubled(batch):
        assert may_answer.wait(60)
        batches.append(list(batch))
        if "bad" in batch:
            raise ValueError("a bad batch")
        return [2 * each for each in batch]

    async def ask():
        batcher = Batcher(doubled, 3, "test")
        tasks = [asyncio.create_task(batcher(each)) for each in asks]
        await asyncio.sleep(0)  # all wait now, and the first batch is taken
        await asyncio.sleep(0)
        for place in cancelled:
            tasks[place].cancel()
        await asyncio.sleep(0)
        may_answer.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        batcher.close()
        return found

    return asyncio.run(ask()), batches


def test_who_waits_is_answered_together():
    assert answers(["a", "b", "c", "d"]) == (["aa", "bb", "cc", "dd"], [["a", "b", "c"], ["d"]])


@pytest.mark.parametrize("cancelled", [(), (0,)])
def test_an_error_is_that_of_all_who_asked_at_once(cancelled):
    found, batches = answers(["a", "bad", "c", "d"], cancelled)
    assert batches == [["a", "bad", "c"], ["d"]]  # the next ones do not have it
    assert [str(each) for each in found[len(cancelled) : 3]] == ["a bad batch"] * (
        3 - len(cancelled)
    )
    assert found[3] == "dd"
    assert all(isinstance(found[place], asyncio.CancelledError) for place in cancelled)


def test_who_has_gone_does_not_disturb_the_others():
    found, _ = answers(["a", "b"], cancelled=(0,))
    assert isinstance(found[0], asyncio.CancelledError) and found[1] == "bb"
