"""Faults of the disk, one step of an operation after another.

Each step that changes a folder (opening a file to write, writing, syncing, renaming, making and
removing) fails once in a run of its own. After each, what was there before must still be whole, or
the new must be; and the same operation must then succeed.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

__all__ = ["Counts", "file_limit", "try_all"]

REMOVING = ("unlink", "remove", "rmdir")
STEPS = ("open", "replace", "rename", "mkdir", "fsync", "chmod", *REMOVING)
TEMPORARY = (".tmp", ".part", ".writing", ".work")


class Disk:
    """Counts the steps within a folder and lets the n-th, from 0, fail.

    Args:
        root: The folder.
        number: The step that fails.
        code: Its `errno`.
        stays: Whether all later steps that need room fail, too, as on a full disk.
        without: Part of the names of files that are left alone.
    """

    def __init__(self, root: Path, number: int, code: int, stays: bool, without: str = "") -> None:
        self.without = without
        self.root, self.number, self.code, self.stays = str(root.resolve()), number, code, stays
        self.done = 0
        self.failed = ""  # the name of the step

    def step(self, name: str, path: Any, before: Callable[[], object] = lambda: None) -> None:
        if not self.is_within(path):
            return
        here, self.done = self.done, self.done + 1
        again = self.stays and here > self.number and name not in (*REMOVING, "rename", "replace")
        if here == self.number or again:
            self.failed = self.failed or f"{name} {Path(self.path_of(path)).name}"
            before()
            raise OSError(self.code, os.strerror(self.code), self.path_of(path))

    def path_of(self, path: Any) -> str:
        if isinstance(path, int):
            try:
                return os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return ""
        return os.path.abspath(os.fsdecode(path))

    def is_within(self, path: Any) -> bool:
        path = self.path_of(path)
        if self.without and self.without in os.path.basename(path):
            return False
        return path.startswith(self.root)

    def patched(self, name: str) -> Any:
        original = getattr(os, name)

        def run(path: Any, *args: Any, **options: Any) -> Any:
            folder = options.get("dir_fd", options.get("src_dir_fd"))
            full = path if folder is None else os.path.join(self.path_of(folder), path)
            writes = name != "open" or (args and args[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if writes:
                self.step(name, full)
            return original(path, *args, **options)

        return mock.patch.object(os, name, run)

    def opened(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self.is_within(file):
                return original(file, mode, *args, **options)
            if not isinstance(file, int):
                self.step("open", file)
            return Written(original(file, mode, *args, **options), self, file)

        return run

    @contextmanager
    def __call__(self) -> Iterator[Disk]:
        opened = self.opened(io.open)
        with ExitStack() as stack:
            for name in STEPS:
                stack.enter_context(self.patched(name))
            stack.enter_context(mock.patch.object(io, "open", opened))
            stack.enter_context(mock.patch.object(builtins, "open", opened))
            yield self


class Written:
    """A file whose writes can stop halfway."""

    def __init__(self, file: Any, disk: Disk, path: Any) -> None:
        self._file, self._disk = file, disk
        self._path = disk.path_of(path)

    def write(self, data: Any) -> Any:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._disk.step("write", self._path, half)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


@dataclass
class Counts:
    """How many faults were tried, and what was lost: nothing may be."""

    tried: int = 0
    survived: int = 0
    lost: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lost = "".join(f"\n  {each}" for each in self.lost)
        return f"tried {self.tried}, survived {self.survived}, lost {len(self.lost)}{lost}"

    def note(self, what: str, problem: str) -> None:
        self.tried += 1
        self.survived += not problem
        if problem:
            self.lost.append(f"{what}: {problem}")


def try_all(
    template: Path,
    work: Path,
    act: Callable[[Path], str],
    state: Callable[[Path], Any],
    every: int = 1,
    again: Callable[[Path], str] | None = None,
    without: str = "",
) -> Counts:
    """Lets each step of an operation fail, on a copy of a folder each time.

    Args:
        template: The folder before the operation.
        work: Where the copies go.
        act: The operation; returns its error, "" if it succeeded. Other exceptions are lost.
        state: What a reader finds in the folder; raises if it is half of something.
        every: Only every n-th step, for slow operations.
        again: What is done after a fault, if it is not the same.
        without: Steps on a file whose name has this never fail.
    """
    old = state(template)
    copy = work / "copy"
    counts = Counts()
    goal = None
    for code, stays in ((errno.EACCES, False), (errno.ENOSPC, True)):
        number = 0
        while True:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(template, copy, symlinks=True)
            disk = Disk(copy, number if goal is not None else 10**9, code, stays, without)
            try:
                with disk():
                    error = act(copy)
            except Exception as unexpected:
                counts.note(disk.failed, f"{type(unexpected).__name__}: {unexpected}"[:300])
                number += every
                continue
            if goal is None:  # the first run is untouched
                assert not error, error
                goal = state(copy)
                assert not left_behind(copy) and not list(copy.rglob(".written"))
                continue
            if not disk.failed:
                assert not error, error
                break
            what = f"step {number}, {disk.failed}, {errno.errorcode[code]}"
            counts.note(what, _problem(copy, disk, error, again or act, state, (old, goal)))
            number += every
    return counts


def _problem(
    folder: Path,
    disk: Disk,
    error: str,
    act: Callable[[Path], str],
    state: Callable[[Path], Any],
    states: tuple[Any, Any],
) -> str:
    """What is wrong after a fault; "" if nothing is."""
    try:
        found = state(folder)
    except Exception as broken:
        return f"cannot be read: {type(broken).__name__}: {broken}"[:300]
    if found not in states:
        return "what is there is neither the old nor the new"
    if not error and found != states[1]:
        return "it claims success, and the old is there"
    if error and str(folder) not in error:
        return f"the error names no file: {error[:200]}"
    if error and found != states[1] and not disk.failed.startswith(REMOVING):
        if left := left_behind(folder):
            return f"left behind: {', '.join(left)}"
    if again := act(folder):
        return f"the same once more fails: {again[:200]}"
    if state(folder) != states[1]:
        return "the same once more does not give the new"
    if not disk.failed.startswith(REMOVING) and (left := left_behind(folder)):
        return f"left behind after the same once more: {', '.join(left)}"
    return ""


def left_behind(folder: Path) -> list[str]:
    """Temporary files and folders of writers."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith(TEMPORARY)
    )


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file can grow beyond a size: what compiled code writes stops halfway, too."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
