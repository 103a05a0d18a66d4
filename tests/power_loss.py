"""Losses of power, simulated: what a disk may hold if the power goes at any step of an operation.

What counts as safe is what POSIX promises, and no more:

* The content of a file is safe once the file was synced after its last write.
* A name (that something was made, renamed or removed) is safe once its folder was synced after.
* A rename is one change: it is there or not, even between two folders.

What is not safe may be there or not, in any order. After each step these disks are tried:

* ``nothing``: no change that is not safe.
* ``all``: all names; of content that is not safe everything, nothing, a half, as many zeros, or
  what was safe of the file before.
* ``only NAME``, ``all but NAME``: of the names that are not safe one, or all but one.

What compiled code writes is seen at the next step of Python, and counts as not synced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.faults import Counts, Disk, left_behind

__all__ = ["NEVER", "Content", "Losses", "disks_of", "lay_out", "lose_power"]

NEVER = 10**9


class Content(NamedTuple):
    """What a file holds, and when it was changed."""

    data: bytes
    mtime_ns: int


Layout = dict[str, Content | None]
"""Paths within a folder, and what is there; None: a folder."""
VARIANTS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "whole": lambda new, old: new,
    "empty": lambda new, old: b"",
    "half": lambda new, old: new[: len(new) // 2],
    "zeros": lambda new, old: bytes(len(new)),
    "old": lambda new, old: old,
}


LOST = ("empty", "zeros", "half")


class State:
    """Names of folders and contents of files, by inode."""

    def __init__(self) -> None:
        self.names: dict[int, dict[str, int]] = {}
        self.content: dict[int, Content] = {}

    def inodes(self, root: int) -> Iterator[int]:
        """All that can be reached."""
        yield root
        for inode in self.names.get(root, {}).values():
            yield from self.inodes(inode)


class Losses(Disk):
    """Follows the steps within a folder; after each one it notes what a loss of power leaves.

    Attributes:
        disks: Each layout that is possible at some step, with its description.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, NEVER, 0, False)
        self.disks: dict[frozenset[Any], tuple[str, Layout]] = {}
        self.held: dict[int, int] = {}  # open files: else their inodes may be given anew
        self.folders: set[int] = set()
        self.last = "the start"
        self.top = os.stat(self.root).st_ino
        self.safe = self.scan()

    def step(self, name: str, path: Any, before: Callable[[], object] = lambda: None) -> None:
        if not self.is_within(path):
            return
        self.note()
        if name == "fsync":
            self.sync(os.fstat(path).st_ino)
        self.done += 1
        self.last = f"step {self.done}, {name} {Path(self.path_of(path)).name}"

    def scan(self) -> State:
        """What the folder holds now."""
        state = State()

        def look(folder: str, inode: int) -> None:
            names = state.names[inode] = {}
            for entry in sorted(os.scandir(folder), key=lambda each: each.name):
                own = names[entry.name] = entry.inode()
                if own not in self.held:
                    self.held[own] = os.open(entry.path, os.O_RDONLY)
                if entry.is_dir():
                    self.folders.add(own)
                    look(entry.path, own)
                else:
                    data = Path(entry.path).read_bytes()
                    state.content[own] = Content(data, entry.stat().st_mtime_ns)

        look(self.root, self.top)
        return state

    def sync(self, inode: int) -> None:
        """What is there of a file or folder is safe now."""
        now = self.scan()
        if inode in now.names:
            self.safe.names[inode] = dict(now.names[inode])
        else:
            self.safe.content[inode] = now.content[inode]

    def note(self) -> dict[frozenset[Any], tuple[str, Layout]]:
        """Notes the layouts that a loss of power may leave now, and returns them."""
        now, safe = self.scan(), self.safe
        found = {}

        def add(what: str, names: dict[int, dict[str, int]], variant: str) -> None:
            layout: Layout = {}

            def build(folder: int, prefix: str) -> None:
                for name, inode in names.get(folder, {}).items():
                    path = prefix + name
                    if inode in self.folders:
                        layout[path] = None
                        build(inode, path + "/")
                        continue
                    new, old = now.content.get(inode), safe.content.get(inode)
                    new, old = new or old or Content(b"", 0), old or Content(b"", 0)
                    is_safe = new.data == old.data and inode in safe.content
                    data = new.data if is_safe else VARIANTS[variant](new.data, old.data)
                    layout[path] = Content(data, new.mtime_ns)

            build(self.top, "")
            key = frozenset((path, each and each.data) for path, each in layout.items())
            found[key] = (f"after {self.last}: {what}, {variant}", layout)

        add("nothing", safe.names, "old")
        for variant in VARIANTS:
            add("all", now.names, variant)
        changes = self.changes(now)
        for number, (what, change) in enumerate(changes):
            add(
                f"only {what}",
                applied(safe.names, [change]),
                LOST[number % len(LOST)],
            )
            others = [each for _, each in changes if each is not change]
            add(f"all but {what}", applied(safe.names, others), "whole")
        for key, each in found.items():
            self.disks.setdefault(key, each)
        return found

    def changes(self, now: State) -> list[tuple[str, dict[tuple[int, str], int | None]]]:
        """The changes of names that are not safe; a rename is one."""
        found: dict[Any, tuple[str, dict[tuple[int, str], int | None]]] = {}
        folders = {*self.safe.inodes(self.top), *now.inodes(self.top)}
        was_there, is_there = (
            {each for folder in folders for each in state.names.get(folder, {}).values()}
            for state in (self.safe, now)
        )
        both = was_there & is_there
        for folder in sorted(folders):
            old, new = self.safe.names.get(folder, {}), now.names.get(folder, {})
            for name in sorted(old.keys() | new.keys()):
                was, is_ = old.get(name), new.get(name)
                if was == is_:
                    continue
                place = (folder, name)
                unit: Any = is_ if is_ in both else was if was in both else place
                found.setdefault(unit, (name, {}))[1][place] = is_
        return list(found.values())

    def close(self) -> None:
        for handle in self.held.values():
            os.close(handle)


def applied(
    names: dict[int, dict[str, int]], changes: list[dict[tuple[int, str], int | None]]
) -> dict[int, dict[str, int]]:
    """Names after some changes."""
    result = {folder: dict(own) for folder, own in names.items()}
    for change in changes:
        for (folder, name), inode in change.items():
            result.setdefault(folder, {}).pop(name, None)
            if inode is not None:
                result[folder][name] = inode
    return result


def disks_of(
    folder: Path, act: Callable[[Path], str]
) -> tuple[list[tuple[str, Layout]], list[tuple[str, Layout]]]:
    """Does an operation; the layouts that a loss of power may leave during it, and after it."""
    losses = Losses(folder)
    try:
        with losses():
            error = act(folder)
        assert not error, error
        after = losses.note()
        during = [each for key, each in losses.disks.items() if key not in after]
        return during, list(after.values())
    finally:
        losses.close()


def lay_out(folder: Path, layout: Layout) -> None:
    """Makes a folder hold what a disk holds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path, content in layout.items():
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content.data)
            os.utime(folder / path, ns=(content.mtime_ns, content.mtime_ns))


def lose_power(
    template: Path,
    work: Path,
    act: Callable[[Path], str],
    state: Callable[[Path], Any],
    again: Callable[[Path], str] | None = None,
    repeats: int = NEVER,
    cleans: bool = True,
) -> Counts:
    """Loses power at each step of an operation, in all ways.

    Args:
        template: The folder before the operation; all of it is safe.
        work: Where copies go.
        act: The operation; returns its error, "" if it succeeded.
        state: What a reader finds in the folder; raises if it is half of something.
        again: What is done afterwards, if it is not the same.
        repeats: After about how many losses it is done again; readers look after each.
        cleans: Whether the operation promises to remove what was left behind.
    """
    with mock.patch.object(os, "fsync", lambda handle: None):  # nothing depends on real ones
        return _lose_power(template, work / "copy", act, state, again or act, repeats, cleans)


def _lose_power(
    template: Path,
    copy: Path,
    act: Callable[[Path], str],
    state: Callable[[Path], Any],
    again: Callable[[Path], str],
    repeats: int,
    cleans: bool,
) -> Counts:
    counts = Counts()
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(template, copy, symlinks=True)
    old = state(copy)
    during, after = disks_of(copy, act)
    goal = state(copy)
    tried = [(each, (old, goal)) for each in during] + [(each, (goal,)) for each in after]
    every = max(1, len(tried) // repeats)
    for number, ((what, layout), states) in enumerate(tried):
        lay_out(copy, layout)
        then = again if number % every == 0 else None
        counts.note(what, _problem(copy, states, goal, state, then, cleans))
    return counts


def _problem(
    folder: Path,
    states: tuple[Any, ...],
    goal: Any,
    state: Callable[[Path], Any],
    act: Callable[[Path], str] | None,
    cleans: bool,
) -> str:
    try:
        found = state(folder)
    except Exception as broken:
        return f"cannot be read: {type(broken).__name__}: {broken}"[:300]
    if found not in states:
        return "what was acknowledged is gone" if len(states) == 1 else "neither old nor new"
    if act is None:
        return ""
    try:
        if error := act(folder):
            return f"the same once more fails: {error[:300]}"
        if state(folder) != goal:
            return "the same once more does not give the new"
    except Exception as broken:
        return f"the same once more fails: {type(broken).__name__}: {broken}"[:300]
    if cleans and (left := left_behind(folder)):
        return f"left behind after the same once more: {', '.join(left)}"
    return ""
