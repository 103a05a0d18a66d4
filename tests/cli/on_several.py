"""What test_several_processes.py starts by torchrun: emorec, with one process that fails.

The first argument says which, where and how; see `arrange`.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time

import numpy as np

from emorec.cli import main
from emorec.data.interactions import Interactions
from emorec.data.prepared import part_of
from emorec.training import checkpoint, loop, start

HOOKS = {
    "step": (loop._Loop, "_step"),
    "validation": (loop.Validation, "__call__"),
    "saving": (checkpoint, "save_tensors"),
    "counting": (start, "similar_items"),
}


def arrange(rank: int, where: str, number: int, how: str) -> None:
    """Lets a process fail before it does something for the n-th time, when it runs first."""
    if int(os.environ["RANK"]) != rank or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        return
    owner, name = HOOKS[where]
    do, calls = getattr(owner, name), []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == number:
            print(f"FAILS {time.time()}", file=sys.stderr, flush=True)
            if how == "disk":
                before = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
                try:
                    return do(*args, **options)
                finally:  # what measures the tests writes at the end
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)
            elif how == "slow":
                time.sleep(8)
            else:
                os.kill(os.getpid(), getattr(signal, how))
        return do(*args, **options)

    setattr(owner, name, failing)


def hold_no_others() -> None:
    """Lets a process other than the first fail if it holds events of users that are not its own."""
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    step = loop._Loop._step

    def checked(self, loss):
        gc.collect()
        for each in (each for each in gc.get_objects() if type(each) is Interactions):
            users = each.users.lookup(np.unique(each.user))
            assert not rank or (part_of(users, size) == rank).all(), each
        return step(self, loss)

    loop._Loop._step = checked


if __name__ == "__main__":
    about, *arguments = sys.argv[1:]
    told = json.loads(about)
    if "fails" in told:
        arrange(*told["fails"])
    if told.get("no_others"):
        hold_no_others()
    if os.environ["RANK"] == "1":
        arguments += told.get("second", [])
    main(arguments, prog_name="emorec")
