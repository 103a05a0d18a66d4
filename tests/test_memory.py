from __future__ import annotations

import ctypes
import os
import sys

import pytest

from emorec.memory import keep_freed_memory, machine_memory, peak_memory_gib


@pytest.mark.parametrize(("system", "library"), [("darwin", None), ("linux", object())])
def test_only_glibc_keeps_freed_memory(monkeypatch, system, library):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    assert keep_freed_memory() is False


def test_what_the_system_does_not_report_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_gib() is None
    monkeypatch.delattr(os, "sysconf")
    assert machine_memory() is None
