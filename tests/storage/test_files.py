from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from emorec.storage.files import (
    FileError,
    atomic_path,
    make_folder,
    read_json,
    read_text,
    sync_file,
    sync_folder,
    write_text,
)
from emorec.storage.tensors import load_tensors, save_tensors


@pytest.fixture
def path(tmp_path):
    """A file that holds something already."""
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    return path


def no_space(*_args, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_untouched(path):
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]  # no temporary file left


class TestAtomicPath:
    def test_replaces_the_old_file(self, path):
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            assert temporary.parent == path.parent
        assert path.read_text() == "new"
        assert os.listdir(path.parent) == [path.name]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
    def test_an_error_leaves_the_old_file(self, path, error):
        with pytest.raises(error), atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error
        assert_untouched(path)

    def test_a_full_disk_leaves_the_old_file(self, path, monkeypatch):
        monkeypatch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space left"), atomic_path(path) as temporary:
            temporary.write_text("half")
        assert_untouched(path)

    def test_makes_folders(self, tmp_path):
        write_text(tmp_path / "a" / "b" / "c.txt", "text")
        assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"

    def test_others_may_read_what_the_mask_allows(self, tmp_path):
        before = os.umask(0o027)
        try:
            write_text(tmp_path / "file", "")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "file", "Zoë 東京\n")
    assert (tmp_path / "file").read_bytes() == "Zoë 東京\n".encode()


class TestSyncing:
    @pytest.fixture
    def synced(self, monkeypatch):
        """Paths in the order of syncing, and whether they were files or folders."""
        found, fsync = [], os.fsync

        def counted(handle):
            found.append(os.readlink(f"/proc/self/fd/{handle}"))
            fsync(handle)

        monkeypatch.setattr(os, "fsync", counted)
        return found

    def test_a_file_then_its_name(self, tmp_path, synced):
        write_text(tmp_path / "a", "text")
        temporary, folder = synced
        assert temporary.startswith(str(tmp_path / ".a.")) and folder == str(tmp_path)

    def test_new_folders_are_synced_from_above(self, tmp_path, synced):
        make_folder(tmp_path / "a" / "b")
        assert synced == [str(tmp_path), str(tmp_path / "a")]
        make_folder(tmp_path / "a" / "b")
        assert len(synced) == 2

    @pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
    def test_a_file_system_that_cannot_sync_folders(self, tmp_path, monkeypatch, code):
        def cannot(_handle):
            raise OSError(code, os.strerror(code))

        write_text(tmp_path / "a", "text")
        monkeypatch.setattr(os, "fsync", cannot)
        sync_folder(tmp_path)
        with pytest.raises(OSError, match="/a'$"):
            sync_file(tmp_path / "a")

    def test_a_folder_that_may_not_be_read(self, tmp_path, monkeypatch, synced):
        def forbidden(*_):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(os, "open", forbidden)
        sync_folder(tmp_path)
        assert not synced

    def test_an_error_names_the_folder(self, tmp_path, monkeypatch):
        def broken(_handle):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match=str(tmp_path)):
            sync_folder(tmp_path)


class TestTensors:
    TENSORS = {
        "a.weight": torch.arange(6.0).view(2, 3),
        "strided": torch.arange(6).view(2, 3).T,
        "step": torch.tensor(3.0),
        "none": torch.zeros(0, 4, dtype=torch.int8),
    }

    def test_round_trip(self, tmp_path):
        path = tmp_path / "file.safetensors"
        save_tensors(path, self.TENSORS, {"epoch": 3, "name": "ü", "scores": [0.1]})
        tensors, about = load_tensors(path)
        assert about == {"epoch": 3, "name": "ü", "scores": [0.1]}
        assert set(tensors) == set(self.TENSORS)
        for name, tensor in self.TENSORS.items():
            assert torch.equal(tensors[name], tensor)
            assert tensors[name].dtype == tensor.dtype

    def test_a_full_disk_leaves_the_old_file(self, path, monkeypatch):
        monkeypatch.setattr("emorec.storage.tensors.save_file", no_space)
        with pytest.raises(OSError, match="No space left"):
            save_tensors(path, self.TENSORS, {})
        assert_untouched(path)

    def test_missing(self, tmp_path):
        with pytest.raises(FileError, match=r"gone.safetensors: no such file"):
            load_tensors(tmp_path / "gone.safetensors")

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
    def test_cut_short(self, tmp_path, share):
        path = tmp_path / "cut.safetensors"
        save_tensors(path, {"a": torch.zeros(100)}, {})
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FileError, match="cut.safetensors: is damaged or was not written by"):
            load_tensors(path)

    @pytest.mark.parametrize("content", [b"hello", b"\x80\x04N.", b"\xff" * 100])
    def test_something_else(self, tmp_path, content):
        path = tmp_path / "other.safetensors"
        path.write_bytes(content)
        with pytest.raises(FileError, match="other.safetensors: is damaged or was not written by"):
            load_tensors(path)

    def test_of_another_program(self, tmp_path):
        path = tmp_path / "foreign.safetensors"
        save_file({"a": torch.zeros(1)}, path)
        with pytest.raises(FileError, match="foreign.safetensors: .* was not written by emorec"):
            load_tensors(path)


def test_a_disk_full_inside_safetensors_is_an_os_error_that_names_the_file(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device")

    monkeypatch.setattr("emorec.storage.tensors.save_file", full)
    with pytest.raises(OSError, match=r"model\.safetensors cannot be written: .*No space left"):
        save_tensors(tmp_path / "model.safetensors", {"x": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == []


class TestReading:
    def test_what_is_not_a_regular_file(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path, message in [
            (tmp_path / "none", "none: cannot be read: there is no such file"),
            (tmp_path / "pipe" / "inside", "inside: cannot be read: there is no such file"),
            (tmp_path, "cannot be read: it is a folder; give a file"),
            (tmp_path / "pipe", "cannot be read: it is a device, a pipe or a socket"),
            (tmp_path / "a\0b", r"a\\x00b': cannot be read: .*null"),
            (tmp_path / ("a" * 300), "a': cannot be read: .*too long"),
        ]:
            with pytest.raises(FileError, match=message):
                read_text(path)

    def test_a_disk_that_fails(self, tmp_path, monkeypatch):
        def fails(*_):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        path = tmp_path / "settings.toml"
        path.write_text("12345")
        monkeypatch.setattr(Path, "open", fails)
        with pytest.raises(
            FileError, match=r"settings.toml: cannot be read \(.*Input/output error"
        ):
            read_text(path)

    def test_more_bytes_than_allowed(self, tmp_path):
        path = tmp_path / "settings.toml"
        path.write_text("12345")
        assert read_text(path, most=5) == "12345"
        with pytest.raises(FileError, match="settings.toml: has more than 4 bytes"):
            read_text(path, most=4)

    def test_json(self, path):
        path.write_text('{"a": [1]}' + " " * (1 << 18))  # longer than what people write
        assert read_json(path) == {"a": [1]}
        path.write_text("{")
        with pytest.raises(FileError, match="model.safetensors: is damaged: not JSON"):
            read_json(path)
        path.unlink()
        with pytest.raises(FileError, match="model.safetensors: cannot be read: there is no such"):
            read_json(path)
