"""What a step of the graph encoder costs, beside DGL, PyTorch Geometric and the machine's limit.

    python benchmarks/graph_bench.py --json results.json --plot results.svg
    python benchmarks/graph_bench.py --quick

All peers compute the same users' vectors from the same parameters (checked before timing, with
gradients) and take turns in one process on one thread; figures are medians of the process's CPU
time, which other work on the machine disturbs little. Edges are synthetic.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from graph_peers import KINDS, SIZE, Case, dgl_peer, make_graph, pyg_peer
from machine import machine
from torch import Tensor, nn

from emorec.data.graph import FeedbackGraph, schema
from emorec.memory import keep_freed_memory
from emorec.nn.graph_encoder import ConvName, GraphEncoder

CONVS: list[tuple[ConvName, int]] = [("sage", 1), ("gat", 1), ("gat", 4)]
SIZES = {"ml-1m": (6_040, 3_700, 1_000_000), "10x": (60_400, 37_000, 10_000_000)}
BASELINE = "DGL"
FLOOR = "floor"


@click.command(context_settings={"max_content_width": 100})
@click.option("--size", "sizes", multiple=True, type=click.Choice(list(SIZES)), help="Only these.")
@click.option("--layers", default=2, show_default=True, help="Layers of the encoder.")
@click.option("--seconds", default=60.0, show_default=True, help="Per case; three turns at least.")
@click.option("--quick", is_flag=True, help="The small graph, few repetitions.")
@click.option("--no-pyg", is_flag=True, help="Leave PyTorch Geometric out.")
@click.option(
    "--default-allocator",
    is_flag=True,
    help="Let the C library return freed memory after each step, as a bare script does.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw ratios (needs matplotlib).")
def main(
    sizes: tuple[str, ...],
    layers: int,
    seconds: float,
    quick: bool,
    no_pyg: bool,
    default_allocator: bool,
    json_path: Path | None,
    plot: Path | None,
) -> None:
    """Times SAGE and GAT, forward, and forward with backward."""
    torch.set_num_threads(1)
    if not default_allocator:
        keep_freed_memory()  # as training does; every peer gains
    result: dict[str, Any] = {"machine": facts(), "cases": []}
    print("\n".join(f"{name}: {value}" for name, value in result["machine"].items()), flush=True)
    for size in sizes or (["ml-1m"] if quick else SIZES):
        for conv, heads in CONVS:
            case = Case(conv, heads, layers, *SIZES[size])
            result["cases"].append(measure(case, 5.0 if quick else seconds, not no_pyg))
            print_case(result["cases"][-1])
            if json_path:
                json_path.write_text(json.dumps(result, indent=1) + "\n")
    result["tiny"] = tiny()
    print("\nA graph of 20 events, ms of a step (dispatch alone)")
    for name, milliseconds in result["tiny"].items():
        print(f"  {name:32}{milliseconds:8.2f}")
    if json_path:
        json_path.write_text(json.dumps(result, indent=1) + "\n")
    if plot:
        draw(result, plot)


def measure(case: Case, seconds: float, with_pyg: bool) -> dict[str, Any]:
    """Median milliseconds of each peer."""
    graph = make_graph(case)
    models, left_out = make_models(graph, case, with_pyg)
    items = torch.randn(case.items, SIZE) * 0.1
    upstream = torch.randn(case.users, SIZE)
    times: dict[str, dict[str, list[float]]]
    times = {name: {"forward": [], "both": []} for name in models}
    expected: tuple[Tensor, Tensor] | None = None
    for name, model in models.items():  # warms up, and checks
        _, found = once(model, graph, items, upstream)
        if expected is None:
            expected = found
        for own, other in zip(found, expected, strict=True):
            error = float((own - other).abs().max() / other.abs().max())
            if error > 1e-4:  # of the largest number: sums of many terms in another order
                raise click.ClickException(f"{case.name}: {name} is off by {error:.1e}")
    end = time.perf_counter() + seconds
    turns = 0
    while turns < 3 or time.perf_counter() < end:
        for name, model in models.items():
            (forward, both), _ = once(model, graph, items, upstream)
            times[name]["forward"].append(forward)
            times[name]["both"].append(both)
        turns += 1
    medians = {
        name: {kind: statistics.median(values) * 1e3 for kind, values in own.items()}
        for name, own in times.items()
    }
    bound = floor(models["ours, torch"], graph, case)
    medians[FLOOR] = {
        "forward": sum(bound["forward"].values()),
        "both": sum(bound["both"].values()),
    }
    return {
        "case": case.name,
        "ms": medians,
        "turns": turns,
        "left out": left_out,
        "floor": bound,
    }


def make_models(
    graph: FeedbackGraph, case: Case, with_pyg: bool
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The peers by name, and why others are missing."""
    torch.manual_seed(0)
    ours = {}
    for backend in ("torch", "dgl"):
        ours[backend] = GraphEncoder(
            schema(), case.users, SIZE, conv=case.conv, num_layers=case.layers,
            num_heads=case.heads, dropout=0.0, backend=backend,
        )  # fmt: skip
    ours["dgl"].load_state_dict(ours["torch"].state_dict())
    models: dict[str, nn.Module] = {f"ours, {name}": model for name, model in ours.items()}
    left_out: dict[str, str] = {}
    makers: dict[str, tuple[Callable, bool]] = {
        BASELINE: (dgl_peer, False),
        "DGL, needed relations only": (dgl_peer, True),
        "PyG": (pyg_peer, False),
        "PyG, needed relations only": (pyg_peer, True),
    }
    for name, (make, pruned) in makers.items():
        if name.startswith("PyG") and not with_pyg:
            left_out[name] = "left out"
        elif name.startswith("PyG") and case.events > 2e6 and (case.conv == "gat" or not pruned):
            left_out[name] = "needs some 4 KB per edge"
        else:
            try:
                models[name] = make(graph, ours["torch"], case, pruned)
            except ImportError as error:
                left_out[name] = f"not installed: {error}"
    return models, left_out


def once(
    model: nn.Module, graph: FeedbackGraph, items: Tensor, upstream: Tensor
) -> tuple[tuple[float, float], tuple[Tensor, Tensor]]:
    """Seconds of forward, and of both passes; then users' vectors and the items' gradient."""
    model.zero_grad(set_to_none=True)
    items = items.detach().requires_grad_()
    start = time.process_time()
    output = model(graph, items)
    forward = time.process_time() - start
    start = time.process_time()
    output.backward(upstream)
    both = forward + time.process_time() - start
    assert items.grad is not None
    return (forward, both), (output.detach(), items.grad)


def floor(ours: Any, graph: FeedbackGraph, case: Case) -> dict[str, dict[str, float]]:
    """Milliseconds that arithmetic and memory demand, from rates measured here.

    * Projections: ``2 D^2`` FLOP per row that a needed relation or self term maps, with SAGE after
      its means and with GAT before its sums, and twice that again in the backward, at the speed of
      one float32 product of all feedback nodes at once (``X W`` for the vectors and their
      gradients, ``X^T X`` for the gradient of the weights).
    * Gathers: ``D`` numbers per event and sum, at the speed of `embedding_bag` over uniform random
      rows of a table of the size at hand: one sum forward and one backward. With GAT the rows of
      items are those of items in a kind of feedback. The softmax counts as free.
    * Node-wise: ELU and LayerNorm, as measured on as many rows.
    """
    nodes, num_events = len(graph.owner), len(graph.events.item)
    rows = {"item": case.items, "feedback": nodes, "user": case.users}
    pairs = case.items * len(KINDS)
    mapped = {"item": pairs, "feedback": nodes, "user": nodes}  # for the messages to each type
    if case.conv == "gat":
        mapped |= {"item": nodes, "feedback": pairs}
    products = elementwise = 0
    into = back = 0
    last = len(ours.layers) - 1
    for depth, layer in enumerate(ours.layers):
        for name in layer.norms:
            products += mapped[name] + (rows[name] if name in layer.selves else 0)
            elementwise += rows[name] if depth < last else 0
            into, back = into + (name == "feedback"), back + (name == "item")
    x = torch.randn(nodes, SIZE, requires_grad=True)
    weight = torch.randn(SIZE, SIZE)
    norm = nn.LayerNorm(SIZE)
    product = median(lambda: x.detach() @ weight) / nodes
    gradient = median(lambda: x.detach().T @ x.detach()) / nodes
    wise_forward = median(lambda: norm(F.elu(x))) / nodes
    wise_both = median(lambda: norm(F.elu(x)).sum().backward()) / nodes
    sources = pairs if case.conv == "gat" else case.items
    from_items = gather(sources, nodes, num_events)
    from_nodes = gather(nodes, sources, num_events)
    forward = into * from_items + back * from_nodes
    backward = into * from_nodes + back * from_items
    return {
        "forward": {
            "projections": products * product,
            "gathers": forward,
            "node-wise": elementwise * wise_forward,
        },
        "both": {
            "projections": products * (2 * product + gradient),
            "gathers": forward + backward,
            "node-wise": elementwise * wise_both,
        },
    }


def gather(rows: int, bags: int, num_events: int) -> float:
    """Milliseconds of a sum over as many random rows of a table."""
    table = torch.randn(rows, SIZE)
    index = torch.randint(rows, (num_events,), dtype=torch.int32)
    offsets = torch.linspace(0, num_events, bags + 1).to(torch.int32)
    return median(
        lambda: F.embedding_bag(index, table, offsets, mode="sum", include_last_offset=True)
    )


def median(run: Callable[[], Any], repetitions: int = 7) -> float:
    """Median CPU milliseconds."""
    run()
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        run()
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times)


def tiny() -> dict[str, float]:
    """Milliseconds of a step on almost nothing."""
    times = {}
    for conv, heads in CONVS:
        case = Case(conv, heads, 2, 2, 2, 20)
        graph = make_graph(case)
        models, _ = make_models(graph, case, with_pyg=True)
        items, upstream = torch.randn(2, SIZE), torch.randn(2, SIZE)
        for name, model in models.items():
            steps = [once(model, graph, items, upstream)[0][1] for _ in range(31)]
            label = f"{'SAGE' if conv == 'sage' else f'GAT {heads}'}: {name}"
            times[label] = statistics.median(steps[1:]) * 1e3
    return times


def facts() -> dict[str, str]:
    """Where and with what this was measured."""
    versions = {}
    for name in ("dgl", "torch_geometric"):
        try:
            versions[name] = __import__(name).__version__
        except ImportError:
            versions[name] = "not installed"
    return machine(**versions)


def print_case(part: dict[str, Any]) -> None:
    """A table of one case."""
    print(f"\n{part['case']}, CPU ms, median of {part['turns']} turns")
    ours = part["ms"]["ours, torch"]
    print(f"  {'':30}{'forward':>10}{'ratio':>8}{'fwd+bwd':>10}{'ratio':>8}")
    for name, own in part["ms"].items():
        print(
            f"  {name:30}{own['forward']:10.1f}{own['forward'] / ours['forward']:8.2f}"
            f"{own['both']:10.1f}{own['both'] / ours['both']:8.2f}"
        )
    for name, reason in part["left out"].items():
        print(f"  {name:30}{reason}")
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in part["floor"]["both"].items())
    print(f"  floor of fwd+bwd: {parts}", flush=True)


def draw(result: dict[str, Any], path: Path) -> None:
    """Forward and backward of the peers, as multiples of ours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = result["cases"]
    names = dict.fromkeys(name for part in cases for name in part["ms"] if name != "ours, torch")
    figure, axis = plt.subplots(figsize=(8, 1.2 + 0.5 * len(cases)), layout="constrained")
    for name, marker in zip(names, "oDdPXv", strict=False):
        ratios = {
            place: part["ms"][name]["both"] / part["ms"]["ours, torch"]["both"]
            for place, part in enumerate(cases)
            if name in part["ms"]
        }
        axis.scatter(list(ratios.values()), list(ratios), marker=marker, label=name)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xticks(ticks := [0.5, 1, 2, 5, 10, 20], [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set_yticks(range(len(cases)), [part["case"] for part in cases])
    axis.invert_yaxis()
    axis.grid(alpha=0.3)
    axis.set_xlabel("time / time of ours on the torch backend, forward and backward, 1 thread")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    figure.savefig(path)


if __name__ == "__main__":
    main()
