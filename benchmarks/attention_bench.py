"""How fast the fused Hawkes attention is, and how much memory it takes, beside its peers.

    python benchmarks/attention_bench.py --json results.json --markdown results.md \
        --plot results.svg
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
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attention_report
import torch
from attention_peers import FORWARD_ONLY, PEERS, SIZE, SLOW_TO_COMPILE, Case, Data, Run
from machine import machine

from emorec.ops import library

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

# glibc gives large blocks back to the system at once and gets them again, page fault by page fault.
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
    parser.add_argument("--seconds", type=float, default=10.0, help="per case and process")
    parser.add_argument("--no-flex", action="store_true", help="leave FlexAttention out")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    parser.add_argument("--plot", type=Path, help="draw the ratios here (needs matplotlib)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = arguments.case or (QUICK if arguments.quick else [case.name for case in CASES])
    cases = [case for case in CASES if case.name in names]
    if arguments.worker:
        print(json.dumps(work(cases, **json.loads(arguments.worker))))
        return

    seconds = min(arguments.seconds, 3.0) if arguments.quick else arguments.seconds
    allocators = arguments.allocator or list(ALLOCATORS)
    result: dict[str, Any] = {"machine": facts(), "timings": [], "memory": []}
    print(attention_report.machine_list(result["machine"]), flush=True)
    for allocator in allocators:
        for threads in arguments.threads or (1, 2):
            # FlexAttention takes a minute to compile.
            slow = (arguments.quick, arguments.no_flex, threads > 1, allocator != allocators[-1])
            flex = not any(slow)
            for case in cases:
                part = in_process(
                    case, allocator, {"threads": threads, "seconds": seconds, "flex": flex}
                )
                result["timings"].append({**part, "allocator": allocator, "threads": threads})
                print("\n" + attention_report.timing_table(result["timings"][-1]), flush=True)
                save(result, arguments.json)
    for case in cases:
        part = in_process(case, "default", {"threads": 1, "memory": True})
        result["memory"].append(part)
    result["roofline H100"] = [roofline_h100(case) for case in cases]
    save(result, arguments.json)
    print("\n" + attention_report.summary(result))
    if arguments.markdown:
        arguments.markdown.write_text(attention_report.report(result))
    if arguments.plot:
        attention_report.draw(result, arguments.plot)


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
        return {
            "case": case.name,
            "MiB": {name: peak(name, run, data) for name, run in runs.items()},
        }
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
            data.forget_gradients()
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


def once(
    name: str, run: Run, clock: Callable[[], float], gradient: torch.Tensor | None = None
) -> tuple[float, float]:
    """Seconds of a forward pass, and of forward and backward; the output's gradient is given."""
    start = clock()
    output = run()
    forward = clock() - start
    if name in FORWARD_ONLY:
        return forward, forward
    if gradient is None:
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


def peak(name: str, run: Run, data: Data) -> float | None:
    """MiB that forward and backward need beyond what was there; None where it cannot be told."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    try:
        once(name, run, time.perf_counter)  # compiles
        gradient = torch.ones_like(run())
    except Exception:  # said by the timings
        return None
    data.forget_gradients()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = memory("VmRSS")
    once(name, run, time.perf_counter, gradient)
    return (memory("VmHWM") - before) / 1024


def memory(field: str) -> int:
    """KiB of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {field}")


def facts() -> dict[str, str]:
    """Where and with what this was measured."""
    problem = library.problem("cpu")
    if problem is not None:
        sys.exit(f"nothing to measure: {problem}")
    return machine(**{"instruction set": torch.ops.emorec.instruction_set()})


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


if __name__ == "__main__":
    main()
