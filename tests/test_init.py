from __future__ import annotations

import os
import subprocess
import sys

import pytest

import emorec
from emorec.recommender import EmoRec
from tests.small import small_config, small_log


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
assert "torch" not in sys.modules  # nor before somebody asks for what needs it
emorec.EmoRec
"""
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [expected]  # as it was when PyTorch was asked for


@pytest.mark.parametrize("module", ["torch", "pandas", "numpy", "scipy"])
def test_help_needs_none_of_what_computes(module):
    code = f"import sys, emorec.cli; sys.exit({module!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("module", ["torch._dynamo", "dgl", "matplotlib", "scipy.linalg"])
def test_a_list_needs_none_of_what_trains(module, tmp_path):
    log = small_log([(user, (user + n) % 5, 0, n) for user in range(4) for n in range(3)], 4, 5)
    EmoRec(config=small_config("training.epochs=1")).fit(log, progress=False).save(tmp_path)
    code = (
        "import sys; from emorec.cli import recommend; "
        f"recommend([{str(tmp_path)!r}, '--user', '0'], standalone_mode=False); "
        f"sys.exit({module!r} in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.split()[0] == "user", run.stderr


def test_public_names_are_imported_when_asked_for():
    assert emorec.EmoRec is EmoRec
    assert {"EmoRec", "Feedback", "Interactions"} <= set(dir(emorec))
    with pytest.raises(AttributeError, match="module 'emorec' has no attribute 'Emorec'"):
        emorec.Emorec  # noqa: B018
