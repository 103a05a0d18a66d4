from __future__ import annotations

import itertools
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from emorec import processes
from emorec.processes import ALONE, ProcessError, World, joined


def test_one_process_changes_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu", timeout=1) as world:
        assert world is ALONE
        assert not torch.distributed.is_initialized()
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert ALONE.is_first
    assert ALONE.total(x) is x
    assert ALONE.sum(x) is x
    assert ALONE.maximum(x) is x
    assert ALONE.gather(x)[0] is x
    assert ALONE.first_says("text") == "text"
    ALONE.copy_first([x])
    ALONE.require_same({"settings": "any"})
    ALONE.wait()
    assert x.tolist() == [1, 2]
    assert ALONE.bytes_sent == 0


def test_torchrun_of_one_process_sets_nothing_up(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    with joined("cpu", timeout=1) as world:
        assert world is ALONE
        assert not torch.distributed.is_initialized()


class Store(dict):
    """The store of two processes; ``gone`` ones do not count up, and ``broken`` stores fail."""

    def __init__(self, gone=(), is_broken=False):
        super().__init__(reported=0)
        self.gone, self.is_broken, self.asked = set(gone), is_broken, 0

    def check(self, keys):
        if self.is_broken:
            raise RuntimeError("Broken pipe")
        return bool(self["reported"])

    def multi_get(self, keys):
        self.asked += 1
        return [b"1" if rank in self.gone else b"%d" % self.asked for rank in range(len(keys))]

    def add(self, key, number):
        if self.is_broken:
            raise RuntimeError("Broken pipe")
        self[key] += number
        return self[key]


@pytest.fixture
def quick(monkeypatch):
    """Time that passes when it is asked for."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks), sleep=lambda _: None)
    monkeypatch.setattr(processes, "time", clock)


class TestWhoIsGone:
    @pytest.mark.parametrize(
        ("gone", "said"),
        [
            ((), ""),
            ((1,), "process 1 of 3 is gone"),
            ((0, 2), "processes 0, 2 of 3 are gone"),
        ],
    )
    def test_is_who_does_not_count_up(self, quick, gone, said):
        assert World(0, 3, Store(gone))._what_happened() == said

    def test_is_the_store_if_it_does_not_answer(self, quick):
        world = World(1, 2, Store(is_broken=True))
        assert world._what_happened() == "the process that connects all others is gone"
        # Nobody can be asked, so the first one reports.
        assert not world._is_first_to_report()
        assert World(0, 2, Store(is_broken=True))._is_first_to_report()

    @pytest.mark.parametrize("asked", [0, 1, 3])  # before, or while this one waits
    def test_is_another_one_that_says_why(self, quick, asked):
        class Reporting(Store):
            def check(self, keys):
                return self.asked >= asked

        said = World(0, 2, Reporting(gone=(1,)))._what_happened()
        assert said == "another process has stopped and says why"

    def test_a_process_without_a_store_counts_up_no_more(self, monkeypatch):
        monkeypatch.setattr(processes, "_BEAT", 0.0)
        tried = threading.Event()

        class Broken:
            keys = []

            def set(self, key, value):
                self.keys.append((key, value))
                tried.set()
                raise RuntimeError("Broken pipe")

        with processes._beating(Broken(), 3):
            assert tried.wait(10)
        assert Broken.keys == [("beat 3", "1")]

    def test_one_process_reports(self):
        store = Store()
        first = [World(rank, 3, store)._is_first_to_report() for rank in (2, 0, 1)]
        assert first == [True, False, False]


class TestJoined:
    @pytest.fixture
    def world(self, quick, monkeypatch):
        """The second of two processes, which are all there."""
        world = World(1, 2, Store())
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setattr(processes, "_connected", lambda device, timeout: world)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        return world

    def test_an_error_after_leaving_is_that_of_this_process(self, world):
        with pytest.raises(OSError, match="^disk full$"):
            with joined("cpu", timeout=1) as found:
                found.leave()
                raise OSError("disk full")
        assert not world._store["reported"]

    def test_ended_from_outside_while_all_are_there(self, world):
        with pytest.raises(SystemExit) as ended, joined("cpu", timeout=1):
            processes._terminate()
        assert ended.value.code == 128 + signal.SIGTERM
        assert world.has_left and not world._store["reported"]

    def test_ended_as_another_one_is_gone(self, world):
        world._store.gone.add(0)
        message = "^process 0 of 2 is gone, so all have stopped. All finished epochs are saved"
        with pytest.raises(ProcessError, match=message), joined("cpu", timeout=1):
            processes._terminate()
        assert world._store["reported"] == 1


class TestConnected:
    @pytest.fixture
    def store(self, monkeypatch):
        """A store that both processes have reached."""
        store = dist.HashStore()
        for rank in ("0", "1"):
            store.set(f"emorec 0/beat {rank}", "1")
        place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
        for name, value in place.items():
            monkeypatch.setenv(name, value)
        for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
        return store

    def test_one_that_does_not_come_is_named(self, store):
        store.delete_key("emorec 0/beat 1")
        message = "^process 0 of 2 waited 0 s at here:1, and 1 did not come; is torchrun running"
        with pytest.raises(ProcessError, match=message), joined("cpu", timeout=0):
            raise AssertionError("connected")

    @pytest.mark.parametrize(
        ("device", "backend", "gpus"), [("cpu", "gloo", []), ("cuda", "cpu:gloo,cuda:nccl", [3])]
    )
    def test_a_device_of_its_own(self, store, monkeypatch, device, backend, gpus):
        taken = []

        def fails(backend, **options):
            raise RuntimeError(f"no {backend} for {options['rank']} of {options['world_size']}")

        monkeypatch.setenv("LOCAL_RANK", "3")
        monkeypatch.setattr(torch.cuda, "set_device", taken.append)
        monkeypatch.setattr(dist, "init_process_group", fails)
        message = f"^process 0 of 2 cannot reach the others: no {backend} for 0 of 2$"
        with pytest.raises(ProcessError, match=message), joined(device, timeout=1):
            raise AssertionError("connected")
        assert taken == gpus


def test_tensors_that_are_not_contiguous_are_copied_too(monkeypatch):
    world, given = World(1, 2), torch.arange(6.0).reshape(2, 3)
    broadcast = SimpleNamespace(broadcast=lambda x, source: x.copy_(given))
    monkeypatch.setattr(world, "_call", lambda operation: operation(broadcast))
    tensors = torch.zeros(2, 3), torch.zeros(3, 2).T
    world.copy_first(tensors)
    assert all(torch.equal(each, given) for each in tensors)
    assert world.bytes_sent == 0  # the first process sends
