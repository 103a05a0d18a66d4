"""Kills: an operation runs in a process that kills itself at a chosen step.

Each kill is a fork, which takes milliseconds. The process dies before a step on the disk, halfway
through a write (half of the text is in the file) or, as compiled code writes without steps of
Python, once a file has grown to a given size.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults import Counts, Disk, left_behind
from tests.operations import files_of

__all__ = ["Killing", "in_child", "kill"]

NEVER = 10**9


class Killing(Disk):
    """Kills the process at the n-th step within a folder, from 0."""

    def __init__(self, root: Path, number: int) -> None:
        super().__init__(root, number, 0, False)

    def step(self, name: str, path: Any, before: Callable[[], object] = lambda: None) -> None:
        if not self.is_within(path):
            return
        if self.done == self.number:
            before()
            os.kill(os.getpid(), signal.SIGKILL)
        self.done += 1


def in_child(act: Callable[[], int]) -> int:
    """Runs something in a fork; what it returned, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 120
        os.fsync = lambda handle: None  # what is written survives a kill
        try:
            nowhere = os.open(os.devnull, os.O_RDWR)
            for own in (0, 1, 2):
                os.dup2(nowhere, own)
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill(
    template: Path,
    work: Path,
    act: Callable[[Path], str],
    state: Callable[[Path], Any],
    again: Callable[[Path], str] | None = None,
    kills: int = NEVER,
    cleans: bool = True,
) -> Counts:
    """Kills an operation at its steps.

    Args:
        template: The folder before the operation.
        work: Where copies go.
        act: The operation; returns its error, "" if it succeeded.
        state: What a reader finds in the folder; raises if it is half of something.
        again: What is done after a kill, if it is not the same.
        kills: About how many kills, spread over the steps; all steps if there are fewer.
        cleans: Whether the operation promises to remove what was left behind.
    """
    copy, counts = work / "copy", Counts()

    def fresh() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(template, copy, symlinks=True)

    def undisturbed() -> int:
        disk = Killing(copy, NEVER)
        with disk():
            error = act(copy)
        (work / "steps").write_text(str(disk.done))
        return bool(error)

    def killed_at(number: int) -> int:
        with Killing(copy, number)():
            return bool(act(copy))

    def grown_beyond(size: int) -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return bool(act(copy))

    def check(what: str, code: int, signals: set[int]) -> None:
        if -code not in signals:
            counts.note(what, f"not killed, but ended with {code}")
            return
        counts.note(what, _problem(copy, (old, goal), state, again or act, cleans))

    fresh()
    old = state(copy)
    before = files_of(copy)
    assert in_child(undisturbed) == 0
    goal = state(copy)
    steps = int((work / "steps").read_text())
    largest = max(len(data) for name, data in files_of(copy).items() if before.get(name) != data)
    every = max(1, steps // kills)
    for number in range(0, steps, every):
        fresh()
        check(f"at step {number}", in_child(partial(killed_at, number)), {signal.SIGKILL})
    for share in range(4):
        size = largest * (2 * share + 1) // 8
        fresh()
        code = in_child(partial(grown_beyond, size))
        check(f"beyond {size} bytes", code, {signal.SIGXFSZ})
    return counts


def _problem(
    folder: Path,
    states: tuple[Any, Any],
    state: Callable[[Path], Any],
    act: Callable[[Path], str],
    cleans: bool,
) -> str:
    try:
        if state(folder) not in states:
            return "neither old nor new"
        failed = in_child(lambda: bool(act(folder)))
        if failed:
            return f"the same once more fails: {act(folder)[:300]}"
        if state(folder) != states[1]:
            return "the same once more does not give the new"
    except Exception as broken:
        return f"{type(broken).__name__}: {broken}"[:300]
    if cleans and (left := left_behind(folder)):
        return f"left behind after the same once more: {', '.join(left)}"
    return ""
