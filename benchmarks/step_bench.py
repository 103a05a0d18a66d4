"""Where a training step goes, beside its floor.

    python benchmarks/step_bench.py --dataset ml-1m --data-dir DATA

takes steps of the encoders' training on one thread, twice from the same start. The first time gives
the CPU milliseconds of a step's stages (batch, softmax, the rest of forward and backward, gradient
norm, optimizer, average). The second time, PyTorch's profiler divides the rest by the self time of
operators. All figures are medians over the steps, as batches differ in length.

The floor of a part is what its arithmetic or its memory traffic would take alone, at rates that the
same run measures; what stays in caches can be faster:

* projections: each product again, by itself, on fresh matrices of the same shape, by PyTorch's BLAS
  or by oneDNN, whichever is faster;
* attention, softmax and linear maps: their products' FLOPs (forward 2 and backward 5 products of
  each causal pair; 3 products of states and items, or rows and weights) at the rate of a square
  product, exponentials not counted;
* all that passes over memory: the bytes that go in and out, once, at the bandwidth of a copy;
* what is done in Python, and the bookkeeping of autograd: nothing.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from machine import machine
from torch.profiler import ProfilerActivity, profile
from torch.utils.mkldnn import to_mkldnn

from emorec.building import build_model
from emorec.config import load_config
from emorec.data.datasets import load_dataset
from emorec.data.sequences import EventSequences
from emorec.data.splits import split_interactions
from emorec.memory import keep_freed_memory
from emorec.ops import library
from emorec.storage.files import write_text
from emorec.training import losses
from emorec.training.distributed import clip_gradients
from emorec.training.parts import parts_of, with_chosen_horizon
from emorec.training.softmax import catalogue_loss

PRODUCTS = {"aten::addmm", "aten::mm", "aten::bmm"}
LOOKUPS = ("index", "embedding", "gather", "scatter", "nonzero", "cumsum", "segment", "sort")
OVERHEAD = ("autograd::", "Backward0", "_DropBackward", "_Drop", "AccumulateGrad", "detach", "view")
OVERHEAD += ("expand", "transpose", "aten::t", "slice", "select", "as_strided", "empty", "unbind")
OVERHEAD += ("resolve", "linear", "reshape", "squeeze", "item", "_local_scalar", "permute")
COMPILED = {"softmax_loss": "softmax loss", "hawkes_attention": "attention"}
COMPILED |= {"norm_linear": "linear maps", "add_linear": "linear maps"}
OVER_MEMORY = ("lookups and sums", "layer norms", "elementwise and copies")
WARM = 3
STAGES = ("batch", "softmax loss", "forward and backward", "gradient norm", "optimizer", "average")


class Steps:
    """The steps of a training; `run` takes one and gives the CPU seconds of its stages."""

    def __init__(self, preset: str, settings: tuple[str, ...], log: Any, seed: int = 1) -> None:
        config = load_config(preset, settings=settings)
        config = with_chosen_horizon(config, log.valid)
        self.model = build_model(config, log.train.num_users, log.train.num_items)
        events = EventSequences.build(log.train)
        self.part = parts_of(self.model, config, events, log.train)[-1]
        self._rng = np.random.default_rng(seed)
        self._batches, self.losses = self._endless(), list[float]()
        self.batch: Any = None
        self._softmax, self.num_ranked = 0.0, 0
        torch.manual_seed(seed)
        self.model.train()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.part.batches(self._rng)

    def run(self, within: AbstractContextManager[Any] | None = None) -> list[float]:
        """A step; forward and backward run within a context, such as a profiler."""
        part, clock = self.part, [time.process_time()]
        self.batch = batch = next(self._batches)
        clock.append(time.process_time())
        with within or nullcontext():
            with patch.object(losses, "catalogue_loss", self._timed_softmax):
                loss = part.loss(batch, self._rng)
            assert loss is not None
            part.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.losses.append(loss.item())
        clock.append(time.process_time())
        clip_gradients(part.parameters(), 1.0)
        clock.append(time.process_time())
        part.optimizer.step()
        clock.append(time.process_time())
        if part.average is not None:
            part.average.update()
        clock.append(time.process_time())
        stages = np.diff(clock).tolist()
        return [stages[0], self._softmax, stages[1] - self._softmax, *stages[2:]]

    def _timed_softmax(self, *arguments: Any) -> torch.Tensor:
        """The loss over the catalogue, which computes its gradients as well."""
        started = time.process_time()
        loss = catalogue_loss(*arguments)
        self._softmax = time.process_time() - started
        self.num_ranked = len(arguments[0])
        return loss


@click.command(context_settings={"max_content_width": 100})
@click.option("--dataset", default="ml-100k", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--preset", default="emorec", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE")
@click.option("--steps", default=20, show_default=True)
@click.option("--operators", is_flag=True, help="Print the operators of each part as well.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def main(
    dataset: str,
    data_dir: Path | None,
    preset: str,
    settings: tuple[str, ...],
    steps: int,
    operators: bool,
    json_path: Path | None,
) -> None:
    """CPU milliseconds of the parts of a training step on DATASET, beside their floors."""
    torch.set_num_threads(1)
    keep_freed_memory()
    split = split_interactions(load_dataset(dataset, data_dir))
    training = Steps(preset, settings, split)
    times = np.array([training.run() for _ in range(WARM + steps)])[WARM:]
    stages = dict(zip(STAGES, 1000 * np.median(times, axis=0), strict=True))
    floors: dict[str, list[float]] = defaultdict(list)
    calls: dict[tuple[str, int], list[float]] = defaultdict(list)
    bandwidth, rate = copy_bandwidth(), square_product()
    training = Steps(preset, settings, split)
    for step in range(WARM + steps):
        tracer = profile(activities=[ProfilerActivity.CPU], record_shapes=True, acc_events=True)
        training.run(None if step < WARM else tracer)
        if step < WARM:
            continue
        number: dict[str, int] = defaultdict(int)
        floor: dict[str, float] = defaultdict(float)
        for event in tracer.events():
            part = part_of(event.name)
            calls[event.name, number[event.name]].append(event.self_cpu_time_total / 1000)
            number[event.name] += 1
            if part == "projections":
                floor[part] += 1000 * product_alone(event.input_shapes)
            elif part in OVER_MEMORY:
                floor[part] += 1000 * num_bytes(event.input_shapes) / bandwidth
        for part, flops in flops_of(training).items():
            floor[part] = 1000 * flops / rate
        for part, ms in floor.items():
            floors[part].append(ms)
    # The profiler counts time by the clock; medians of each call leave out waits for the processor.
    by_operator: dict[tuple[str, str], float] = defaultdict(float)
    spent: dict[str, float] = defaultdict(float)
    for (name, _), times_of_call in calls.items():
        by_operator[part_of(name), name] += float(np.median(times_of_call))
    for (part, _), ms in by_operator.items():
        if part != "softmax loss":  # so long that it always waits; its CPU time is known
            spent[part] += ms
    scale = stages.pop("forward and backward") / sum(spent.values())
    parts = {part: ms * scale for part, ms in sorted(spent.items(), key=lambda each: -each[1])}
    size = 4 * sum(each.numel() for each in training.part.parameters())  # bytes
    least_of = {part: float(np.median(each)) for part, each in floors.items()}
    for stage, passes in (("gradient norm", 1), ("optimizer", 7), ("average", 3)):
        least_of[stage] = 1000 * passes * size / bandwidth
    rows = [
        {"part": part, "ms": ms, "floor_ms": least_of.get(part, 0.0)}
        for part, ms in (parts | stages).items()
    ]
    whole, least = sum(row["ms"] for row in rows), sum(least_of.values())
    click.echo("| part | CPU ms | share | floor, ms |\n|---|---:|---:|---:|")
    for row in [*rows, {"part": "step", "ms": whole, "floor_ms": least}]:
        shown = f"{row['floor_ms']:.1f}" if row["floor_ms"] else ""
        click.echo(f"| {row['part']} | {row['ms']:.1f} | {row['ms'] / whole:.0%} | {shown} |")
    click.echo(
        f"\na step takes {whole / least:.2f} times the sum of floors; a square product reaches "
        f"{rate / 1e9:.0f} GFLOP/s, a copy {bandwidth / 1e9:.1f} GB/s; "
        f"loss of the last step {training.losses[-1]!r}"
    )
    if operators:
        for (part, name), ms in sorted(by_operator.items(), key=lambda each: -each[1])[:60]:
            click.echo(f"{ms * scale:8.2f} ms  {part:24} {name}")
    if json_path:
        facts = {"machine": machine(), "rows": rows, "times_floor": round(whole / least, 2)}
        write_text(json_path, json.dumps(facts, indent=1) + "\n")


def part_of(operator: str) -> str:
    """The part of a step that an operator belongs to."""
    name = operator.rpartition(": ")[2] if operator.startswith("autograd::") else operator
    for word, part in COMPILED.items():  # also what autograd wraps
        if word in operator:
            return part
    if operator in PRODUCTS:
        return "projections"
    if name != operator or any(word in operator for word in OVERHEAD):
        return "autograd and views"
    if "layer_norm" in operator:
        return "layer norms"
    if any(word in operator for word in LOOKUPS):
        return "lookups and sums"
    return "elementwise and copies"


def product_alone(shapes: list[list[int]]) -> float:
    """CPU seconds of a product on fresh matrices, by the faster one of two libraries."""
    left, right = [torch.randn(shape) for shape in shapes if len(shape) > 1][-2:]
    ways = [lambda: torch.matmul(left, right)]
    if torch.backends.mkldnn.is_available() and right.ndim == 2:
        layer = torch.nn.Linear(*right.shape, bias=False).eval()
        by_onednn, packed = to_mkldnn(layer), left.to_mkldnn()
        ways.append(lambda: by_onednn(packed))
    with torch.inference_mode():
        return min(timed(way) for way in ways for _ in range(3))


def square_product(size: int = 768) -> float:
    """FLOPs per second of a product that the processor does well."""
    return 2 * size**3 / min(product_alone([[size, size]] * 2) for _ in range(3))


def flops_of(training: Steps) -> dict[str, float]:
    """FLOPs of the products within attention and softmax, of the last step."""
    model, batch = training.model, training.batch
    encoder, found = model.sequence_encoder, {}
    if encoder is not None:
        lengths = batch.sequences.cu_seqlens.diff().double()
        pairs = float((lengths * (lengths + 1) / 2).sum()) * len(encoder.layers)
        size, num_layers = encoder.norm.normalized_shape[0], len(encoder.layers)
        found["attention"] = 7 * 2 * pairs * size
        if library.problem("cpu") is None:
            # With projections, 4 D^2 numbers of each layer are attention's, 8 D^2 its network's.
            maps = (12 if encoder.layers[0].output is not None else 8) * num_layers
            found["linear maps"] = 3 * 2.0 * maps * size**2 * len(batch.sequences.item)
    found["softmax loss"] = 3 * 2.0 * training.num_ranked * model.item_vectors.numel()
    return found


def num_bytes(shapes: list[list[int]]) -> float:
    """Bytes of an operator's inputs, and of an output as large as the largest of them."""
    sizes = [float(np.prod(shape)) for shape in shapes if shape]
    return 4 * (sum(sizes) + max(sizes, default=0))


def copy_bandwidth() -> float:
    """Bytes per second of a copy, read and written."""
    source, target = torch.zeros(2**22), torch.zeros(2**22)
    return 2 * 4 * 2**22 / min(timed(lambda: target.copy_(source)) for _ in range(10))


def timed(act: Callable[[], Any]) -> float:
    """CPU seconds of an action; of several, if one is too short for the clock."""
    number, started = 0, time.process_time()
    while number < 3 or time.process_time() - started < 1e-3:
        act()
        number += 1
    return (time.process_time() - started) / number


if __name__ == "__main__":
    main()
