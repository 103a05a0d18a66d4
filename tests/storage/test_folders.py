from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emorec.storage.files import FileError, write_text
from emorec.storage.folders import (
    MANIFEST,
    _holder,
    checked_file,
    is_unused,
    only_writer,
    replace_files,
)

STEPS = ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir", "open")
"""What a write does to the disk, one function of ``os`` each."""


def at_step(monkeypatch, number, act):
    """Calls ``act`` in place of the n-th step, counted from 0; returns the steps that were run."""
    done = []

    def counted(name, original):
        def step(*args, **options):
            done.append(name)
            if len(done) == number + 1:
                act()
            return original(*args, **options)

        return step

    for name in STEPS:
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    return done


def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def write(folder, **texts):
    with replace_files(folder, ("a", "b", "c")) as new:
        for name, text in texts.items():
            write_text(new / name, text)


def content(folder):
    """The files of a folder, as a reader finds them."""
    return {
        name: path.read_text()
        for name in ("a", "b", "c")
        if (path := checked_file(folder, name)) is not None
    }


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


OLD, NEW = {"a": "old a", "c": "old c"}, {"a": "new a", "b": "new b"}


class TestReplaceFiles:
    def test_all_are_replaced_and_what_is_not_written_again_goes(self, tmp_path):
        write_text(tmp_path / "of somebody else", "")
        write(tmp_path, **OLD)
        assert content(tmp_path) == OLD
        write(tmp_path, **NEW)
        assert content(tmp_path) == NEW
        assert visible(tmp_path) == ["a", "b", MANIFEST, "of somebody else"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_error_keeps_the_old_files(self, tmp_path, error):
        write(tmp_path, **OLD)
        with pytest.raises(error), replace_files(tmp_path, ()) as new:
            write_text(new / "a", "half")
            raise error
        assert content(tmp_path) == OLD
        assert visible(tmp_path) == ["a", "c", MANIFEST]

    def test_a_full_disk_at_any_step(self, tmp_path, monkeypatch):
        found = []
        for number in range(100):
            folder = tmp_path / str(number)
            write(folder, **OLD)
            with monkeypatch.context() as patch:
                steps = at_step(patch, number, no_space)
                try:
                    write(folder, **NEW)
                    failed = False
                except OSError as error:
                    assert "No space left" in str(error)
                    failed = True
            found.append(content(folder))
            assert found[-1] in (OLD, NEW)  # never a mix
            write(folder, **NEW)  # and nothing is in the way of another try
            assert content(folder) == NEW
            assert visible(folder) == ["a", "b", MANIFEST]
            if not failed and len(steps) <= number:
                break
        assert OLD in found
        assert len(found) > 15

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    def test_killed_at_any_step(self, tmp_path, monkeypatch):
        found = []
        for number in range(100):
            folder = tmp_path / str(number)
            write(folder, **OLD)
            child = os.fork()
            if child == 0:
                at_step(monkeypatch, number, killed)
                write(folder, **NEW)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            found.append(content(folder))
            assert found[-1] in (OLD, NEW)
            with only_writer(folder):  # the lock does not outlive its process
                assert content(folder) == found[-1]
                assert set(visible(folder)) == {*found[-1], MANIFEST}  # no leftovers
            if status == 0:
                break
        assert OLD in found
        assert found[-2] == NEW  # killed after the step that counts
        assert len(found) > 15

    def test_a_file_of_another_save_is_refused(self, tmp_path):
        one, other = tmp_path / "one", tmp_path / "other"
        write(one, a="1", b="1")
        write(other, a="2", b="2")
        (one / "a").write_text("2")
        assert checked_file(one, "b") == one / "b"
        with pytest.raises(FileError, match=r"a: is damaged, was changed, or is of another save"):
            checked_file(one, "a")
        (one / MANIFEST).unlink()
        assert checked_file(one, "a") == one / "a"

    @pytest.mark.parametrize(
        "text", ["", "{", "null", "[]", '{"check": 3}', '{"sha256": {"a": 3}}', "[" * 10**5]
    )
    def test_a_damaged_manifest(self, tmp_path, text):
        write(tmp_path, **OLD)
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(FileError, match=rf"{MANIFEST}: is damaged") as caught:
            checked_file(tmp_path, "a")
        assert "\n" not in str(caught.value)

    def test_a_manifest_that_was_changed(self, tmp_path):
        write(tmp_path, **OLD)
        manifest = (tmp_path / MANIFEST).read_text()
        (tmp_path / MANIFEST).write_text(manifest.replace('"c": ', '"d": '))
        with pytest.raises(FileError, match=rf"{MANIFEST}: is damaged: its content is not what it"):
            checked_file(tmp_path, "a")

    def test_the_manifest_holds_the_digests(self, tmp_path):
        write(tmp_path, a="")
        manifest = json.loads((tmp_path / MANIFEST).read_text())
        assert manifest["sha256"] == {
            "a": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        }


class TestOnlyWriter:
    def test_another_process_is_named(self, tmp_path):
        with subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys; from pathlib import Path\n"
                "from emorec.storage.folders import only_writer\n"
                "with only_writer(Path(sys.argv[1])):\n    print('in', flush=True)\n    input()",
                str(tmp_path),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        ) as other:
            try:
                assert other.stdout.readline() == b"in\n"
                with pytest.raises(
                    FileError,
                    match=f"is being written by process {other.pid}; wait for it or choose another",
                ):
                    write(tmp_path, **NEW)
            finally:
                other.kill()
        write(tmp_path, **NEW)  # the lock of a killed process does not block
        assert content(tmp_path) == NEW

    @pytest.mark.parametrize("content", [None, b"", b"\xff", b"12a"])
    def test_a_lock_that_does_not_say_whose_it_is(self, tmp_path, content):
        if content is not None:
            (tmp_path / "lock").write_bytes(content)
        assert _holder(tmp_path / "lock") == "a process"
        (tmp_path / "lock").write_text("7\n")
        assert _holder(tmp_path / "lock") == "process 7"

    def test_another_thread_is_kept_out(self, tmp_path):
        errors = []

        def enter():
            try:
                with only_writer(tmp_path):
                    pass
            except FileError as error:
                errors.append(str(error))

        with only_writer(tmp_path), only_writer(tmp_path):  # the same thread may nest it
            thread = threading.Thread(target=enter)
            thread.start()
            thread.join()
        assert errors == [
            f"{tmp_path} is being written by this process; wait for it or choose another folder"
        ]
        enter()
        assert len(errors) == 1

    def test_a_new_folder_that_stays_empty_goes(self, tmp_path):
        with only_writer(tmp_path / "new"):
            assert is_unused(tmp_path / "new")
        assert not (tmp_path / "new").exists()
        with only_writer(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_leftovers_of_a_killed_writer_go(self, tmp_path):
        (tmp_path / ".checkpoint.safetensors.abcd_123.tmp").write_text("half")
        (tmp_path / ".writing").mkdir()
        (tmp_path / ".writing" / "a").write_text("half")
        (tmp_path / ".mine.tmp").write_text("of somebody else")
        with only_writer(tmp_path):
            assert visible(tmp_path) == [".mine.tmp"]
