"""How fast the fused Hawkes attention is, and how much memory it takes, beside its peers.

    python benchmarks/attention_bench.py --json results.json --plot results.svg
    python benchmarks/attention_bench.py --quick

Each allocator setting and number of threads gets a process of its own, in which the peers take
turns; figures are medians. With one thread the clock is the process's CPU time, which other work on
the machine disturbs little; with more it is wall time, and only means something on a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from attention_peers import FORWARD_ONLY, PEERS, SIZE, SLOW_TO_COMPILE, Case, Data, Run

CASES = [
    Case("L 51", 256, 51, 1),
    Case("L 51, 4 heads", 256, 51, 4),
    Case("L 201", 128, 201, 4),
    Case("L 201, causal", 128, 201, 4, causal=True),
    Case("L 201, one rate", 128, 201, 4, shared_rate=True),
    Case("MovieLens-1M lengths", 128, 201, 4, ragged=True),
    Case("MovieLens-1M lengths, causal", 128, 201, 4, ragged=True, causal=True),
    Case("L 1,025", 16, 1025, 2),
    Case("L 1,025, window 10", 16, 1025, 2, window=10.0),
    Case("L 4,097, window 10", 4, 4097, 1, window=10.0),
]
QUICK = ["L 51, 4 heads", "L 201"]

# glibc gives large blocks back to the system at once and gets them anew, page fault by page fault.
# "tuned" keeps them; it is kinder to the peers, which make more of them.
ALLOCATORS: dict[str, dict[str, str]] = {
    "default": {},
    "tuned": {
        "MALLOC_MMAP_THRESHOLD_": "4294967296",
        "MALLOC_TRIM_THRESHOLD_": "4294967296",
        "MALLOC_TOP_PAD_": "67108864",
    },
}
BASELINE = "eager"


def main() -> None:
    """Runs the measurements and prints them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, few repetitions")
    parser.add_argument("--case", action="append", help="only this case (may be repeated)")
    parser.add_argument("--threads", type=int, action="append", help="default: 1 and 2")
    parser.add_argument("--allocator", choices=ALLOCATORS, action="append", help="default: both")
    parser.add_argument("--seconds", type=float, default=20.0, help="per case and process")
    parser.add_argument("--no-flex", action="store_true", help="leave FlexAttention out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw the ratios here (needs matplotlib)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.case or (QUICK if arguments.quick else [case.name for case in CASES])
    cases = [case for case in CASES if case.name in names]
    if arguments.worker:
        print(json.dumps(work(cases, **json.loads(arguments.worker))))
        return

    seconds = min(arguments.seconds, 3.0) if arguments.quick else arguments.seconds
    flex = not (arguments.quick or arguments.no_flex)
    result: dict[str, Any] = {"machine": machine(), "timings": [], "memory": []}
    print("\n".join(f"{name}: {value}" for name, value in result["machine"].items()), flush=True)
    for allocator in arguments.allocator or ALLOCATORS:
        for threads in arguments.threads or (1, 2):
            for case in cases:
                part = in_process(
                    case, allocator, {"threads": threads, "seconds": seconds, "flex": flex}
                )
                result["timings"].append({**part, "allocator": allocator, "threads": threads})
                print_timings(result["timings"][-1])
                save(result, arguments.json)
    for case in cases:
        part = in_process(case, "default", {"threads": 1, "memory": True})
        result["memory"].append(part)
        print_memory(part)
    result["far field"] = far_field(result["timings"])
    result["roofline H100"] = [roofline_h100(case) for case in cases]
    print_roofline(result["roofline H100"])
    save(result, arguments.json)
    if arguments.plot:
        draw(result, arguments.plot)


def save(result: dict[str, Any], path: Path | None) -> None:
    """Writes what is there so far."""
    if path:
        path.write_text(json.dumps(result, indent=1) + "\n")


def in_process(case: Case, allocator: str, options: dict[str, Any]) -> dict[str, Any]:
    """A case measured in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= ALLOCATORS[allocator]
    environment["OMP_NUM_THREADS"] = str(options["threads"])
    command = [sys.executable, __file__, "--case", case.name, "--worker", json.dumps(options)]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def work(
    cases: list[Case],
    threads: int,
    seconds: float = 0.0,
    flex: bool = False,
    memory: bool = False,
) -> dict[str, Any]:
    """What a process measures."""
    torch.set_num_threads(threads)
    (case,) = cases
    data = Data.make(case)
    runs = {name: make(data) for name, make in PEERS.items() if flex or name not in SLOW_TO_COMPILE}
    if memory:
        return {"case": case.name, "MiB": {name: peak(name, run) for name, run in runs.items()}}
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[str, dict[str, list[float]]] = {}
    for name in list(runs):
        try:
            once(name, runs[name], clock)
        except Exception as error:  # a peer may not support a case: said, and left out
            print(f"{case.name}: {name} left out: {str(error).splitlines()[0]}", file=sys.stderr)
            del runs[name]
            continue
        times[name] = {"forward": [], "both": []}
    if case.length > 1000:
        runs["fused, full sum"] = runs["fused"]
        times["fused, full sum"] = {"forward": [], "both": []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["fused"]["both"]) < 3:
        for name, run in runs.items():
            os.environ["EMOREC_FAR_FIELD"] = "0" if name == "fused, full sum" else "1"
            forward, both = once(name, run, clock)
            times[name]["forward"].append(forward)
            times[name]["both"].append(both)
    medians = {
        name: {kind: statistics.median(values) * 1e3 for kind, values in kinds.items()}
        for name, kinds in times.items()
    }
    for name in FORWARD_ONLY:
        if name in medians:
            del medians[name]["both"]
    lengths = data.lengths.double()
    heads = 1 if case.shared_rate else case.heads
    flops = 2 * SIZE * (1 + heads) * float((lengths**2).sum()) / (2 if case.causal else 1)
    return {
        "case": case.name,
        "ms": medians,
        "repetitions": len(times["fused"]["both"]),
        "forward GFLOP": flops / 1e9,
        "sgemm GFLOP/s": sgemm(clock),
    }


def once(name: str, run: Run, clock: Callable[[], float]) -> tuple[float, float]:
    """Seconds of a forward pass, and of forward and backward."""
    start = clock()
    output = run()
    forward = clock() - start
    if name in FORWARD_ONLY:
        return forward, forward
    gradient = torch.ones_like(output)
    start = clock()
    output.backward(gradient)
    return forward, forward + clock() - start


def sgemm(clock: Callable[[], float], size: int = 1024) -> float:
    """Speed of PyTorch's float32 matrix product, GFLOP/s."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(9):
        start = clock()
        a @ b
        times.append(clock() - start)
    return 2 * size**3 / statistics.median(times[1:]) / 1e9


def peak(name: str, run: Run) -> float | None:
    """MiB that forward and backward need beyond what was there; None where it cannot be told."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    try:
        once(name, run, time.perf_counter)  # compiles, and makes the gradients
    except Exception:  # said by the timings
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = memory("VmRSS")
    once(name, run, time.perf_counter)
    return (memory("VmHWM") - before) / 1024


def memory(field: str) -> int:
    """KiB of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {field}")


def machine() -> dict[str, str]:
    """Where and with what this was measured."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.split(":")[1].strip()
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    from emorec.ops import library

    problem = library.problem("cpu")
    if problem is not None:
        sys.exit(f"nothing to measure: {problem}")
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "load": f"{os.getloadavg()[0]:.1f}",
        "instruction set": torch.ops.emorec.instruction_set(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "command": "python benchmarks/attention_bench.py " + " ".join(sys.argv[1:]),
    }


def print_timings(part: dict[str, Any]) -> None:
    """A table of one case."""
    clock = "CPU" if part["threads"] == 1 else "wall"
    print(
        f"\n{part['case']}, {part['threads']} thread(s), {part['allocator']} allocator, "
        f"{clock} ms, median of {part['repetitions']}"
    )
    ours = part["ms"]["fused"]
    print(f"  {'':22}{'forward':>10}{'ratio':>8}{'fwd+bwd':>10}{'ratio':>8}")
    for name, figures in part["ms"].items():
        line = f"  {name:22}{figures['forward']:10.1f}{figures['forward'] / ours['forward']:8.2f}"
        if "both" in figures:
            line += f"{figures['both']:10.1f}{figures['both'] / ours['both']:8.2f}"
        print(line)
    speed = part["forward GFLOP"] / ours["forward"] * 1e3
    share = speed / part["sgemm GFLOP/s"]
    print(
        f"  forward: {part['forward GFLOP']:.2f} GFLOP at {speed:.0f} GFLOP/s, {share:.0%} of "
        f"sgemm's {part['sgemm GFLOP/s']:.0f}"
    )


def print_memory(part: dict[str, Any]) -> None:
    """Extra memory of one case."""
    print(f"\n{part['case']}, extra memory of forward and backward, MiB")
    for name, amount in part["MiB"].items():
        if amount is not None:
            ratio = amount / max(part["MiB"]["fused"], 0.1)
            print(f"  {name:22}{amount:10.1f}{ratio:8.1f}")


def far_field(timings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the far field saves: full sum over near sum."""
    return [
        {
            **{key: part[key] for key in ("case", "allocator", "threads")},
            **{
                kind: part["ms"]["fused, full sum"][kind] / part["ms"]["fused"][kind]
                for kind in ("forward", "both")
            },
        }
        for part in timings
        if "fused, full sum" in part["ms"]
    ]


# An H100 SXM by its data sheet, at the shares of it that good kernels reach.
H100 = {
    "GEMM": 0.5 * 989e12,  # bfloat16 tensor cores, FLOP/s
    "exp": 0.8 * 132 * 16 * 1.755e9,  # special function units, 1/s
    "memory": 0.85 * 3.35e12,  # bytes/s
}
H100_LAUNCH = 5e-6


def roofline_h100(case: Case) -> dict[str, Any]:
    """Least time of the forward on an H100 in bfloat16: arithmetic, not a measurement."""
    lengths = case.lengths().double()
    pairs = float((lengths**2).sum()) / (2 if case.causal else 1)
    tokens = float(lengths.sum())
    heads = 1 if case.shared_rate else case.heads
    amounts = {
        "GEMM": 2.0 * SIZE * (1 + heads) * pairs,
        "exp": heads * pairs,  # the decay's are separable
        "memory": tokens * (2 * SIZE * (2 + case.heads) + 12 + 4 * heads),
    }
    microseconds = {name: amount / H100[name] * 1e6 for name, amount in amounts.items()}
    microseconds["launch"] = H100_LAUNCH * 1e6
    return {
        "case": case.name,
        "FLOP": amounts["GEMM"],
        "exp": amounts["exp"],
        "bytes": amounts["memory"],
        "us": microseconds,
        "binds": max(microseconds, key=lambda name: microseconds[name]),
    }


def print_roofline(rows: list[dict[str, Any]]) -> None:
    """The H100 table."""
    print("\nH100, forward in bfloat16, least microseconds by arithmetic (nothing was measured)")
    print(f"  {'':30}{'GEMM':>8}{'exp':>8}{'memory':>8}{'launch':>8}  binds")
    for row in rows:
        figures = "".join(f"{value:8.1f}" for value in row["us"].values())
        print(f"  {row['case']:30}{figures}  {row['binds']}")


def draw(result: dict[str, Any], path: Path) -> None:
    """Forward and backward of the peers, as multiples of the fused operator's time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    parts = [part for part in result["timings"] if part["threads"] == 1]
    allocators = list(dict.fromkeys(part["allocator"] for part in parts))
    figure, axes = plt.subplots(
        1, len(allocators), figsize=(6 * len(allocators), 4.5), squeeze=False, layout="constrained"
    )
    for axis, allocator in zip(axes[0], allocators, strict=True):
        own = [part for part in parts if part["allocator"] == allocator]
        peers = [n for n in PEERS if n != "fused" and n not in FORWARD_ONLY]
        for k, name in enumerate(peers):
            ratios = [
                part["ms"][name]["both"] / part["ms"]["fused"]["both"] if name in part["ms"] else 0
                for part in own
            ]
            places = [i + (k - len(peers) / 2 + 0.5) * 0.8 / len(peers) for i in range(len(own))]
            axis.barh(places, ratios, 0.8 / len(peers), label=name)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_yticks(range(len(own)), [part["case"] for part in own])
        axis.invert_yaxis()
        axis.set_xlabel("time / time of fused, forward and backward, 1 thread")
        axis.set_title(f"{allocator} allocator")
    axes[0, 0].legend(fontsize="small")
    figure.savefig(path)


if __name__ == "__main__":
    main()
