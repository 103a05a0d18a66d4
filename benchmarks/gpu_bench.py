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
import math
import statistics
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from machine import machine
from torch import Tensor

from emorec.building import build_model
from emorec.config import load_config
from emorec.data.datasets import load_dataset
from emorec.data.splits import split_interactions
from emorec.ops.hawkes_attention import Decay, hawkes_attention, hawkes_attention_ref
from emorec.storage.files import write_text
from emorec.training.loop import train

SIZE, WINDOW = 64, 101.0  # of queries, keys and values of a head; reach of the positional decay
SCALE = SIZE**-0.5
# Products of bfloat16 by the data sheets, without sparsity, FLOP/s.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
COMPARED = 2  # sequences


@dataclass(frozen=True)
class Case:
    """One size: sequences, tokens of each, heads."""

    batch: int
    length: int
    heads: int = 4

    @property
    def name(self) -> str:
        """As printed."""
        return f"{self.batch} x {self.length}, {self.heads} heads"

    @property
    def flops(self) -> dict[str, float]:
        """Of the products alone, for pairs that a causal mask leaves: 2 forward, 5 backward."""
        product = 2 * SIZE * self.heads * self.batch * self.length * (self.length + 1) / 2
        return {"forward": 2 * product, "both": 7 * product}


CASES = [Case(128, 256), Case(1024, 51), Case(512, 201), Case(64, 1025)]


@dataclass
class Inputs:
    """Inputs of a case; times in days."""

    query: Tensor  # [B, L, H, D], as the next two
    key: Tensor
    value: Tensor
    gap: Tensor  # since the event before, [B, L] float64
    rate: Tensor  # [H]

    @classmethod
    def make(cls, case: Case, device: str, dtype: torch.dtype) -> Inputs:
        """Random inputs with gradients."""
        torch.manual_seed(0)
        shape = case.batch, case.length, case.heads, SIZE
        vectors = (torch.randn(shape).to(device, dtype).requires_grad_() for _ in range(3))
        gap = torch.empty(case.batch, case.length, dtype=torch.float64).exponential_(2.0)
        half_life = torch.logspace(math.log10(0.04), math.log10(365), case.heads)
        return cls(*vectors, gap.to(device), (math.log(2) / half_life).to(device).requires_grad_())

    @property
    def time(self) -> Tensor:
        """Days, the sums of the gaps so far, ``[B, L]``."""
        return self.gap.cumsum(1)

    def leaves(self) -> list[Tensor]:
        """What gets a gradient."""
        return [self.query, self.key, self.value, self.rate]


Run = Callable[[], Tensor]
"""Computes the output, ``[B, L, H, D]``."""


def fused(x: Inputs, decay: Decay) -> Run:
    """EmoRec's operator."""
    batch, length = x.time.shape
    days = x.time.flatten()
    position = torch.arange(length, dtype=torch.int32, device=days.device).repeat(batch)
    ends = torch.arange(batch + 1, device=days.device) * length

    def run() -> Tensor:
        vectors = (each.flatten(0, 1) for each in (x.query, x.key, x.value))
        options: dict[str, Any] = {"window": WINDOW, "decay": decay, "backend": "fused"}
        found = hawkes_attention(*vectors, days, position, ends, x.rate, **options)
        return found.unflatten(0, (batch, length))

    return run


def plain(
    query: Tensor, key: Tensor, value: Tensor, days: Tensor, rate: Tensor, decay: Decay
) -> Tensor:
    """The formula as one writes it."""
    q, k, v = (each.transpose(1, 2) for each in (query, key, value))  # [B, H, L, D]
    length = q.shape[2]
    elapsed = (days[:, None, :, None] - days[:, None, None, :]).clamp(min=0).to(q.dtype)
    place = torch.arange(length, device=q.device, dtype=q.dtype)
    distance = (place[:, None] - place).abs() / WINDOW
    exponent = rate[:, None, None] * elapsed + distance
    scores = SCALE * q @ k.transpose(-1, -2)
    scores = scores * torch.exp(-exponent) if decay == "multiplicative" else scores - exponent
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    weights = torch.softmax(scores.masked_fill(later, -torch.inf), -1)
    return (weights.to(v.dtype) @ v).transpose(1, 2)


def eager(x: Inputs, decay: Decay) -> Run:
    """Plain PyTorch."""
    days = x.time
    return lambda: plain(x.query, x.key, x.value, days, x.rate, decay)


def compiled(x: Inputs, decay: Decay) -> Run:
    """The same by torch.compile."""
    days, function = x.time, torch.compile(plain, dynamic=False)
    return lambda: function(x.query, x.key, x.value, days, x.rate, decay)


def flex(x: Inputs, decay: Decay) -> Run:
    """FlexAttention with the decay as score_mod; the rate gets no gradient."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    days, rate = x.time.float(), x.rate.detach()
    length = days.shape[1]

    def decayed(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        exponent = rate[h] * (days[b, i] - days[b, j]).clamp(min=0) + (i - j).abs() / WINDOW
        return score * torch.exp(-exponent) if decay == "multiplicative" else score - exponent

    def earlier(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return i >= j

    mask = create_block_mask(earlier, None, None, length, length, device=str(days.device))
    function = torch.compile(flex_attention, dynamic=False)

    def run() -> Tensor:
        heads_first = (each.transpose(1, 2) for each in (x.query, x.key, x.value))
        return function(*heads_first, score_mod=decayed, block_mask=mask).transpose(1, 2)

    return run


def sdpa(x: Inputs, decay: Decay) -> Run:
    """PyTorch's fastest attention, without any decay."""

    def run() -> Tensor:
        heads_first = (each.transpose(1, 2) for each in (x.query, x.key, x.value))
        return F.scaled_dot_product_attention(*heads_first, is_causal=True).transpose(1, 2)

    return run


def forgetting(x: Inputs, decay: Decay) -> Run:
    """Flash Linear Attention's forgetting attention, whose gate can be the additive decay.

    Z. Lin et al.: Forgetting Transformer: Softmax Attention with a Forget Gate, ICLR 2025,
    arXiv:2503.02130.
    """
    from fla.ops.forgetting_attn import parallel_forgetting_attn

    gap = x.gap.float()[..., None]
    return lambda: parallel_forgetting_attn(
        x.query, x.key, x.value, -x.rate * gap - 1 / WINDOW, scale=SCALE
    )


PEERS: list[tuple[str, Decay | None, Callable[[Inputs, Any], Run]]] = [
    ("fused", "multiplicative", fused),
    ("eager", "multiplicative", eager),
    ("torch.compile", "multiplicative", compiled),
    ("FlexAttention", "multiplicative", flex),
    ("fused", "additive", fused),
    ("FlexAttention", "additive", flex),
    ("forgetting attention", "additive", forgetting),
    ("SDPA", None, sdpa),
]


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


def expected(x: Inputs, decay: Decay) -> Tensor:
    """The reference's output of the first sequences, in float32."""
    length = x.time.shape[1]
    vectors = (each[:COMPARED].detach().flatten(0, 1).float() for each in (x.query, x.key, x.value))
    days = x.time[:COMPARED]
    position = torch.arange(length, device=days.device).repeat(len(days))
    ends = torch.arange(len(days) + 1, device=days.device) * length
    found = hawkes_attention_ref(
        *vectors, days.flatten(), position, ends, x.rate.detach(), window=WINDOW, decay=decay
    )
    return found.unflatten(0, (len(days), length))


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
