"""Where and with what a benchmark was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

__all__ = ["machine"]


def machine(**more: str) -> dict[str, str]:
    """Facts to keep beside figures: processor, load, versions, commit and command.

    Args:
        more: Further facts, put after the load.
    """
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line.partition(":") for line in info.read_text().splitlines()]
        about = {name.strip(): value.strip() for name, _, value in lines}
        if "model name" in about:  # which some machines keep short, hence the numbers
            cpu = about["model name"]
            cpu += f" (family {about.get('cpu family')}, model {about.get('model')})"
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    # Where things are on a machine is nothing to keep.
    arguments = [Path(each).name if Path(each).is_absolute() else each for each in sys.argv[1:]]
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "load": f"{os.getloadavg()[0]:.1f}",
        **more,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *arguments]),
    }
