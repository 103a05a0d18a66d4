"""Tables and a plot of what `attention_bench.py` measured, in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attention_peers import FORWARD_ONLY, PEERS

__all__ = ["draw", "machine_list", "report", "summary", "timing_table"]


def report(result: dict[str, Any]) -> str:
    """Everything, as a document."""
    parts = [
        "# The fused Hawkes attention beside its peers",
        "What each peer is: [the README](../README.md). Ratios are times over the fused one's.",
        machine_list(result["machine"]),
        *(timing_table(part) for part in result["timings"]),
        summary(result),
    ]
    return "\n\n".join(parts) + "\n"


def summary(result: dict[str, Any]) -> str:
    """The tables over all cases."""
    tables = [
        memory_table(result["memory"]),
        far_field_table(result["timings"]),
        thread_table(result["timings"]),
        roofline_table(result["roofline H100"]),
    ]
    return "\n\n".join(table for table in tables if table)


def table(title: str, header: list[str], rows: list[list[str]]) -> str:
    """A titled table; nothing without rows."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return title + "\n\n" + "\n".join(lines)


def machine_list(machine: dict[str, str]) -> str:
    """Where, with what and by which command this was measured."""
    return "\n".join(f"* {name}: {value}" for name, value in machine.items())


def timing_table(part: dict[str, Any]) -> str:
    """The peers of one case."""
    ours = part["ms"]["fused"]
    speed = part["forward GFLOP"] / ours["forward"] * 1e3
    clock = "CPU time" if part["threads"] == 1 else "wall time"
    title = (
        f"**{part['case']}**, {part['threads']} thread(s), {part['allocator']} allocator, {clock}, "
        f"median of {part['repetitions']}; forward {part['forward GFLOP']:.2f} GFLOP at "
        f"{speed:.0f} GFLOP/s, {speed / part['sgemm GFLOP/s']:.0%} of sgemm's "
        f"{part['sgemm GFLOP/s']:.0f}"
    )
    rows = []
    for name, figures in part["ms"].items():
        row = [name]
        for kind in ("forward", "both"):
            known = kind in figures
            row.append(f"{figures[kind]:.1f}" if known else "")
            row.append(f"{figures[kind] / ours[kind]:.2f}" if known else "")
        rows.append(row)
    return table(title, ["", "forward, ms", "ratio", "forward + backward, ms", "ratio"], rows)


def memory_table(parts: list[dict[str, Any]]) -> str:
    """Extra memory of every case."""
    names = [name for name in PEERS if any(part["MiB"].get(name) for part in parts)]
    rows = []
    for part in parts:
        row = [part["case"]]
        for name in names:
            amount, ours = part["MiB"].get(name), part["MiB"]["fused"]
            row.append(f"{amount:.1f} ({amount / max(ours, 0.1):.1f}x)" if amount else "")
        rows.append(row)
    title = "Extra memory of forward and backward, results and gradients included, MiB"
    return table(title, ["case", *names], rows if names else [])


def far_field_table(timings: list[dict[str, Any]]) -> str:
    """What summing the far field in closed form saves."""
    rows = [
        [part["case"], part["allocator"], str(part["threads"])]
        + [
            f"{part['ms']['fused, full sum'][kind] / part['ms']['fused'][kind]:.1f}"
            for kind in ("forward", "both")
        ]
        for part in timings
        if "fused, full sum" in part["ms"]
    ]
    header = ["case", "allocator", "threads", "forward", "forward + backward"]
    return table("Time of the fused full sum over that with the far field", header, rows)


def thread_table(timings: list[dict[str, Any]]) -> str:
    """How much faster several threads are; wall time over the CPU time of one."""
    single = {(p["case"], p["allocator"]): p["ms"] for p in timings if p["threads"] == 1}
    rows = []
    for part in timings:
        one = single.get((part["case"], part["allocator"]))
        if part["threads"] == 1 or one is None:
            continue
        row = [part["case"], part["allocator"], str(part["threads"])]
        for name in ("fused", "eager"):
            known = name in one and name in part["ms"]
            row.append(f"{one[name]['both'] / part['ms'][name]['both']:.2f}" if known else "")
        rows.append(row)
    header = ["case", "allocator", "threads", "fused", "eager"]
    return table("Speed-up by threads, forward and backward (on a quiet machine)", header, rows)


def roofline_table(rows: list[dict[str, Any]]) -> str:
    """The H100's least times."""
    title = "H100, forward in bfloat16, least microseconds by arithmetic (not a measurement)"
    header = ["case", "GFLOP", "10^9 exp", "MB", *(rows[0]["us"] if rows else []), "binds"]
    cells = [
        [row["case"]]
        + [f"{row[name] / scale:.2f}" for name, scale in (("FLOP", 1e9), ("exp", 1e9))]
        + [f"{row['bytes'] / 1e6:.1f}", *(f"{value:.1f}" for value in row["us"].values())]
        + [row["binds"]]
        for row in rows
    ]
    return table(title, header, cells)


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
