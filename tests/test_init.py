from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_sleep_unless_told_otherwise(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    code = """
import sys
assert "torch" not in sys.modules
import os, importlib.util
sys.meta_path.insert(0, type("Watch", (), {"find_spec": staticmethod(
    lambda name, *_: print(os.environ.get("OMP_WAIT_POLICY")) if name == "torch" else None)}))
import emorec
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [expected]  # as it was when PyTorch was asked for


@pytest.mark.parametrize("module", ["torch._dynamo", "dgl", "matplotlib", "sklearn"])
def test_the_commands_start_without_what_most_of_them_never_need(module):
    code = f"import sys, emorec.cli; sys.exit({module!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
