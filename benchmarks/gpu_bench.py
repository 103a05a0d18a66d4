"""What a GPU makes of the attention and of training; `gpu_check.sh` runs all of it.

    python benchmarks/gpu_bench.py attention --json attention.json
    python benchmarks/gpu_bench.py training --json training.json --dataset ml-1m --data-dir DATA
    python benchmarks/gpu_bench.py table FOLDER

Attention: causal, in bfloat16, queries and keys of each head, beside what PyTorch and Flash Linear
Attention have for it. Times are medians by CUDA's events. Every implementation is compared with the
reference in float32.

Training: two epochs of each part of the flagship, on the GPU in both precisions and on the CPU.

What is in the file already is not measured again.
"""

from __future__ import annotations

import json
import statistics
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import click
import torch
from gpu_peers import COMPARED, PEERS, Case, Inputs, Run, expected
from machine import machine

from emorec.building import build_model
from emorec.config import load_config
from emorec.data.datasets import load_dataset
from emorec.data.splits import split_interactions
from emorec.storage.files import write_text
from emorec.training.loop import train

# Products of bfloat16 by the data sheets, without sparsity, FLOP/s.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
CASES = [Case(128, 256), Case(1024, 51), Case(512, 201), Case(64, 1025)]


@click.group(context_settings={"max_content_width": 100})
def main() -> None:
    """Attention and training on a GPU."""


@main.command()
@click.option("--json", "path", type=click.Path(path_type=Path), required=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--case", "sizes", multiple=True, metavar="B,L,H", help="In place of all cases.")
@click.option("--repetitions", default=30, show_default=True)
@click.option("--without", multiple=True, help="A peer to leave out.")
def attention(
    path: Path, device: str, sizes: tuple[str, ...], repetitions: int, without: tuple[str, ...]
) -> None:
    """Times attention, forward and backward, beside its peers."""
    result = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    result["machine"] = facts(device)
    cases = [Case(*map(int, each.split(","))) for each in sizes] or CASES
    for case in cases:
        if case.name not in result["cases"]:
            peers = [peer for peer in PEERS if peer[0] not in without]
            result["cases"][case.name] = timings(case, peers, device, repetitions)
            write_text(path, json.dumps(result, indent=1) + "\n")
    click.echo(attention_table(result))


def timings(case: Case, peers: list[Any], device: str, repetitions: int) -> dict[str, Any]:
    """Milliseconds of every peer, and how far its output is from the reference's."""
    rows: list[dict[str, Any]] = []
    for name, decay, make in peers:
        row: dict[str, Any] = {"peer": name, "decay": decay or "none"}
        rows.append(row)
        x = Inputs.make(case, device, torch.bfloat16)
        try:
            run = make(x, decay)
            output = run()
            output.backward(torch.ones_like(output))
        except Exception as error:  # a peer may be missing or not take a case: said, and left out
            row["left out"] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if decay is not None:
            row["error"] = (output[:COMPARED].float() - expected(x, decay)).abs().max().item()
        row |= milliseconds(run, x, device, repetitions)
        row |= {f"{kind} TFLOP/s": n / row[kind] / 1e9 for kind, n in case.flops.items()}
    return {"flops": case.flops, "peers": rows}


def milliseconds(run: Run, x: Inputs, device: str, repetitions: int) -> dict[str, float]:
    """Medians of the forward pass, and of forward and backward."""
    forward, both = [], []
    for number in range(repetitions + 3):
        for leaf in x.leaves():
            leaf.grad = None
        start = mark(device)
        output = run()
        middle = mark(device)
        output.backward(output.detach())
        end = mark(device)
        if number >= 3:  # warm
            forward.append(between(start, middle))
            both.append(between(start, end))
    return {"forward": statistics.median(forward), "both": statistics.median(both)}


def mark(device: str) -> Any:
    """A point in time, on a GPU in its queue of work."""
    if torch.device(device).type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Any, end: Any) -> float:
    """Milliseconds between two marks."""
    if isinstance(start, float):
        return (end - start) * 1e3
    end.synchronize()
    return start.elapsed_time(end)


def facts(device: str) -> dict[str, str]:
    """Where and with what this was measured; of a GPU also how fast its products are."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        message = (
            f"--device {device}: PyTorch finds no CUDA device here; --device cpu tries the parts"
        )
        raise click.UsageError(message)
    if torch.device(device).type != "cuda":
        return machine()
    x = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    times = []
    for _ in range(10):
        start = mark(device)
        x @ x
        times.append(between(start, mark(device)))
    rate = 2 * len(x) ** 3 / statistics.median(times[3:]) / 1e9
    return machine(gpu=torch.cuda.get_device_name(), **{"product TFLOP/s": f"{rate:.0f}"})


def attention_table(result: dict[str, Any]) -> str:
    """What `attention` measured, in Markdown."""
    gpu = result["machine"].get("gpu", "")
    peak = next((rate for name, rate in PEAKS.items() if name in gpu), None)
    lines = []
    for name, case in result["cases"].items():
        lines += [
            f"**{name}**",
            "",
            "| peer | decay | forward ms | both ms | TFLOP/s, both | of the peak | error |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in case["peers"]:
            head = f"| {row['peer']} | {row['decay']} |"
            if "left out" in row:
                lines.append(f"{head} left out: {row['left out']} | | | | |")
                continue
            rate = row["both TFLOP/s"]
            share = "" if peak is None else f"{rate * 1e12 / peak:.1%}"
            error = f"{row['error']:.1e}" if "error" in row else ""
            lines.append(
                f"{head} {row['forward']:.3f} | {row['both']:.3f} | {rate:.1f} | {share} | "
                f"{error} |"
            )
        lines.append("")
    return "\n".join(lines)


@main.command()
@click.option("--json", "path", type=click.Path(path_type=Path), required=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--dataset", default="ml-1m", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--epochs", default=2, show_default=True)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE")
def training(
    path: Path,
    device: str,
    dataset: str,
    data_dir: Path | None,
    epochs: int,
    settings: tuple[str, ...],
) -> None:
    """Times epochs of the flagship; their losses beside the CPU's."""
    split = split_interactions(load_dataset(dataset, data_dir), n=10)
    result: dict[str, Any] = {"dataset": dataset, "runs": []}
    if path.exists():
        result = json.loads(path.read_text())
    result["machine"] = facts(device)
    wanted = (device, "float32"), (device, "bfloat16"), ("cpu", "float32")
    for place, precision in wanted[len(result["runs"]) :]:
        options = (
            f"training.device={place}",
            f"training.precision={precision}",
            f"training.epochs={epochs}",
            *settings,
        )
        config = load_config("emorec", settings=options)
        torch.manual_seed(0)
        model = build_model(config, split.train.num_users, split.train.num_items)
        records = train(model, config, split.train, split.valid_targets, progress=False)
        run = {
            "device": place,
            "precision": precision,
            "epochs": [
                {
                    "part": each.part,
                    "loss": each.loss,
                    "seconds": each.seconds,
                    "ndcg": each.valid["ndcg"],
                }
                for each in records
            ],
        }
        result["runs"] += [run]
        write_text(path, json.dumps(result, indent=1) + "\n")
        click.echo(training_rows(run))


def training_rows(run: dict[str, Any]) -> str:
    """The epochs of a training as rows of a table."""
    return "\n".join(
        f"| {run['device']} | {run['precision']} | {each['part']} | {each['seconds']:.1f} | "
        f"{each['loss']:.5f} | {each['ndcg']:.4f} |"
        for each in run["epochs"]
    )


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def table(folder: Path) -> None:
    """Gathers what the parts of gpu_check.sh left in FOLDER: gpu.json and gpu.md."""
    found: dict[str, Any] = {}
    parts = ["# A GPU"]
    for name in ("attention", "training"):
        if (path := folder / f"{name}.json").exists():
            found[name] = json.loads(path.read_text())
            found.setdefault("machine", found[name]["machine"])
    parts.append("\n".join(f"* {name}: {value}" for name, value in found["machine"].items()))
    if (path := folder / "tests.xml").exists():
        suite = ElementTree.parse(path).getroot().find("testsuite")
        assert suite is not None
        counts = {
            name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        }
        found["tests"] = counts
        parts.append(
            "Tests: " + ", ".join(f"{value} {name}" for name, value in counts.items()) + "."
        )
    if "attention" in found:
        parts.append(attention_table(found["attention"]).rstrip())
    if "training" in found:
        head = "| device | precision | part | seconds | loss | validation NDCG |"
        head += "\n|---|---|---|---|---|---|"
        rows = [training_rows(run) for run in found["training"]["runs"]]
        parts.append("\n".join([f"Epochs on {found['training']['dataset']}:", "", head, *rows]))
    write_text(folder / "gpu.json", json.dumps(found, indent=1) + "\n")
    write_text(folder / "gpu.md", "\n\n".join(parts) + "\n")
    click.echo((folder / "gpu.md").read_text())


if __name__ == "__main__":
    main()
