"""The paper's questions, answered by leaving things out: what each part brings, on validation.

    python benchmarks/ablations.py --dataset ml-100k --data-dir DATA --seeds 3

Q1, Do feedback nodes help? Q2, What smooths the graph's vectors out, and how much? Q3, Do the
sequence encoder and the prediction of polarity help? And what of the flagship matters? The test
split is never used. Finished rows are kept in ``results/ablations-DATASET.json`` and not run
again; the tables go to the ``.md`` beside it, whose last section is written by hand and kept.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from torch import Tensor, nn

from emorec.baselines import MostPop
from emorec.building import build_model
from emorec.config import Config, load_config
from emorec.data.datasets import load_dataset
from emorec.data.sequences import EventSequences
from emorec.data.splits import Split, split_interactions
from emorec.evaluation.predictions import evaluate_predictions, polarity_auc
from emorec.evaluation.scores import Scorer
from emorec.evaluation.smoothing import dirichlet_energy, mean_average_distance
from emorec.evaluation.top_k import evaluate, recommend_top_k
from emorec.inference.ranking import ModelScorer
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity
from emorec.storage.files import write_text
from emorec.training.batches import GraphSource
from emorec.training.loop import train
from emorec.training.parts import chosen_epochs

HERE = Path(__file__).parent
K = 10
HOLDOUT = 10
DEPTHS = range(1, 9)
TRAINED_DEPTHS = (1, 2, 4, 8)
DEPTH_EPOCHS = 3
AGGREGATIONS = {  # preset, and what is done to vectors between its layers
    "emo-gat": "unsigned",
    "diff-gat": "signed",
    "emo-gat+residual": "unsigned, residual",
    "emo-gat+pairnorm": "unsigned, PairNorm",
}
READING = "## Reading"
MEASURES = {
    "ndcg_any": "NDCG any",
    "recall_any": "Recall any",
    "ndcg_likes": "NDCG likes",
    "disliked_share": "disliked share",
    "polarity_auc": "PolAUC",
}
PREDICTED = "predicted_auc"  # of models that predict polarities


@dataclass(frozen=True)
class Row:
    """A preset, what is changed of it, and whether the graph's kinds of feedback are shuffled."""

    preset: str
    settings: tuple[str, ...] = ()
    shuffled: bool = False

    @property
    def key(self) -> str:
        """What the row's results are kept under."""
        return " ".join([self.preset, *self.settings, *["shuffled"] * self.shuffled])


def changed(preset: str, *settings: str) -> dict[str, Row]:
    """The preset, then the preset with each one of the settings."""
    return {preset: Row(preset)} | {text: Row(preset, tuple(text.split())) for text in settings}


SHUFFLED = "the graph's kinds of feedback shuffled over events"
TABLES: dict[str, dict[str, Row]] = {
    "Q1. Feedback nodes, graph alone": {
        **changed("emo-gat", "graph.feedback_nodes=false"),
        SHUFFLED: Row("emo-gat", shuffled=True),
    },
    "Q1. Feedback nodes, beside a sequence encoder": {
        **changed("emo-sage-thp", "graph.feedback_nodes=false"),
        SHUFFLED: Row("emo-sage-thp", shuffled=True),
    },
    "Signed aggregation": {
        **changed("emo-gat"),
        **changed("diff-gat"),
        "diff-gat, " + SHUFFLED: Row("diff-gat", shuffled=True),
    },
    "Users' own embeddings": changed("emo-gat", "graph.user_embeddings=false"),
    "Dynamic graph: older events weigh less": changed(
        "emo-sage-thp", "graph.half_life=1", "graph.half_life=30"
    ),
    "Q3. Sequence encoder": changed("emo-sage-thp", "sequence.layers=0", "graph.conv=none"),
    "Q3. Prediction of polarity": changed(
        "emo-gat-thp-polarity", "model.polarity=none", "model.polarity=item"
    ),
    "The flagship's encoder": changed(
        "emorec",
        "model.start=random",
        "sequence.window=101",
        "sequence.layers=1",
        "sequence.layers=3",
        "sequence.decay=multiplicative",
        "sequence.feedback_input=false",
        "loss.horizon=1",
        "loss.horizon=10",
        "loss.polarity_decay=0.25",
        "training.averaging=0",
        "training.batch_size=64",
    ),
    "The graph alone": {
        **changed("emorec-graph", "graph.paths=0", "graph.conv=none", "graph.feedback_nodes=false"),
        SHUFFLED: Row("emorec-graph", shuffled=True),
    },
}


@click.command(context_settings={"max_content_width": 100})
@click.option("--dataset", required=True, help="Name of a data set.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where data sets are.")
@click.option("--seeds", default=1, show_default=True, help="Seeds of each row.")
@click.option("--epochs", default=8, show_default=True, help="Most epochs of each row.")
@click.option("--only", default="", help="Run only tables whose name holds this text.")
def main(dataset: str, data_dir: Path | None, seeds: int, epochs: int, only: str) -> None:
    """Trains what is not there yet and writes the tables."""
    torch.set_num_threads(1)
    split = split_interactions(load_dataset(dataset, data_dir), n=HOLDOUT)
    target = HERE / "results" / f"ablations-{dataset}"
    done = read_finished(target.with_suffix(".json"))
    popularity = done["rows"].setdefault("MostPop", {})
    if not popularity:
        popularity["0"] = on_validation(MostPop().fit(split.train), split)
    rows = {
        row.key: row for name, table in TABLES.items() for row in table.values() if only in name
    }
    for seed in range(1, seeds + 1):
        for key, row in rows.items():
            kept = done["rows"].setdefault(key, {})
            if kept.get(str(seed), {}).get("most_epochs") != epochs:
                config = config_of(row, dataset, seed, epochs)
                kept[str(seed)] = measured(config, split, row.shuffled)
                write(done, target, dataset)
                click.echo(f"{key} {seed}: {json.dumps(kept[str(seed)])}")
    for trained in (False, True) if only in "Q2. Over-smoothing" else ():
        for depth, name in itertools.product(TRAINED_DEPTHS if trained else DEPTHS, AGGREGATIONS):
            kept = done["depths"].setdefault(f"{name} {depth}", {})
            if ("trained" if trained else "start") not in kept:
                preset, _, cure = name.partition("+")
                config = config_of(
                    Row(preset, (f"graph.layers={depth}",)), dataset, 1, DEPTH_EPOCHS
                )
                kept |= smoothed(config, split, trained, cure)
                write(done, target, dataset)
                click.echo(f"{name} {depth}: {json.dumps(kept)}")
    write(done, target, dataset)


def read_finished(path: Path) -> dict[str, Any]:
    """What earlier calls have measured."""
    return json.loads(path.read_text()) if path.exists() else {"rows": {}, "depths": {}}


def config_of(row: Row, dataset: str, seed: int, epochs: int) -> Config:
    """The run of a row."""
    common = (f"data.dataset={dataset}", f"training.seed={seed}", f"training.epochs={epochs}")
    return load_config(row.preset, settings=(*common, *row.settings))


def measured(config: Config, split: Split, shuffled: bool) -> dict[str, float]:
    """Trains on the train split and evaluates the best epoch on validation."""
    started = time.perf_counter()
    with ExitStack() as stack:
        if shuffled:  # in the graph alone; targets stay as they are
            stack.enter_context(patch.object(Recommender, "graph_source", shuffled_source))
        model = build_model(config, split.train.num_users, split.train.num_items)
        records = train(model, config, split.train, split.valid_targets, progress=False)
        scorer = ModelScorer(model, split.train)
        figures = on_validation(scorer, split)
        if isinstance(model.polarity, ItemPolarity):
            predicted = evaluate_predictions(scorer.polarity, split.valid_targets)
            figures[PREDICTED] = predicted["polarity_auc"]
    epochs = chosen_epochs(config, records)
    return {
        **{key: round(value, 5) for key, value in figures.items()},
        "epoch": list(epochs.values())[-1] if epochs else 0,  # counted paths alone train nothing
        "most_epochs": config.training.epochs,
        "seconds": round(time.perf_counter() - started, 1),
    }


GRAPH_SOURCE = Recommender.graph_source


def shuffled_source(
    model: Recommender, events: EventSequences, num_items: int
) -> GraphSource | None:
    """A graph in which kinds of feedback are as frequent as they were, and mean nothing."""
    feedback = np.random.default_rng(0).permutation(events.feedback)
    return GRAPH_SOURCE(model, replace(events, feedback=feedback), num_items)


def on_validation(scorer: Scorer, split: Split) -> dict[str, float]:
    """The metrics on the validation split."""
    users = np.unique(split.valid_targets.user)
    candidates = np.bincount(split.train.item, minlength=split.train.num_items) > 0
    topk = recommend_top_k(scorer, users, split.train, K, candidates)
    summary = evaluate(topk, users, split.valid_targets, K).summary()
    auc = float(polarity_auc(scorer, users, split.valid_targets).mean())
    return {key: auc if key == "polarity_auc" else summary[key] for key in MEASURES}


def smoothed(config: Config, split: Split, trained: bool, cure: str) -> dict[str, Any]:
    """How alike the graph's vectors are, before training or after a little of it."""
    model = build_model(config, split.train.num_users, split.train.num_items)
    assert model.graph_encoder is not None
    for layer in model.graph_encoder.layers if cure else ():
        layer.register_forward_hook(CURES[cure])
    if not trained:
        return {"start": likeness(model, split)}
    started = time.perf_counter()
    train(model, config, split.train, split.valid_targets, progress=False)
    return {
        "trained": likeness(model, split),
        "ndcg_any": round(on_validation(ModelScorer(model, split.train), split)["ndcg_any"], 5),
        "seconds": round(time.perf_counter() - started, 1),
    }


def add_inputs(layer: nn.Module, arguments: tuple[Any, ...], vectors: Any) -> dict[str, Tensor]:
    """A residual connection around a layer, for types of nodes that had vectors before it."""
    before = arguments[2]
    return {
        name: vector + before[name] if name in before and vector is not before[name] else vector
        for name, vector in vectors.items()
    }


def pair_norm(layer: nn.Module, arguments: tuple[Any, ...], vectors: Any) -> dict[str, Tensor]:
    """PairNorm: ``x = sqrt(D) y / sqrt(mean |y|^2)`` with ``y = x - mean x``, per type of node.

    References:
        L. Zhao and L. Akoglu: PairNorm: Tackling Oversmoothing in GNNs, ICLR 2020,
        arXiv:1909.12223.
    """

    def scaled(x: Tensor) -> Tensor:
        y = x - x.mean(0)
        return y / y.square().mean().add(1e-6).sqrt()

    before = arguments[2]
    return {
        name: vector if vector is before.get(name) else scaled(vector)
        for name, vector in vectors.items()
    }


CURES = {"residual": add_inputs, "pairnorm": pair_norm}


@torch.inference_mode()
def likeness(model: Recommender, split: Split) -> dict[str, float]:
    """Mean average distance and Dirichlet energy of users and of feedback nodes.

    Users' vectors are the last layer's output, those of feedback nodes its input; the latter are
    compared within their kind, and the mean over kinds is given.
    """
    encoder = model.graph_encoder
    assert encoder is not None
    events = EventSequences.build(split.train)
    source = model.graph_source(events, split.train.num_items)
    assert source is not None
    graph = source.graph(np.arange(split.train.num_users), events.lengths)
    inputs: dict[str, Tensor] = {}

    def keep(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs.update(arguments[2])

    model.eval()
    handle = encoder.layers[-1].register_forward_pre_hook(keep)
    users = encoder(graph, model.item_embedding.weight)
    handle.remove()
    node, item = graph.events.node_by_event, graph.events.item.long()
    figures = {
        "mad_users": mean_average_distance(users),
        "energy_users": dirichlet_energy(users, graph.owner[node], item),
    }
    nodes, measures = inputs[encoder.reached], []
    for kind in graph.kind.unique():  # kinds have maps of their own: what tells them apart is those
        own = graph.kind == kind
        chosen = own[node]
        index = own.cumsum(0) - 1
        energy = dirichlet_energy(nodes[own], index[node[chosen]], item[chosen])
        measures.append((mean_average_distance(nodes[own]), energy))
    figures["mad_nodes"], figures["energy_nodes"] = np.mean(measures, axis=0).tolist()
    return {key: round(value, 4) for key, value in figures.items()}


def write(done: dict[str, Any], target: Path, dataset: str) -> None:
    """The figures, and the tables of them."""
    write_text(target.with_suffix(".json"), json.dumps(done, indent=1) + "\n")
    page = target.with_suffix(".md")
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    _, heading, reading = old.partition(READING)
    lines = [*markdown(done, dataset), (heading + reading).strip()]
    write_text(page, "\n".join(lines).strip() + "\n")


def markdown(done: dict[str, Any], dataset: str) -> Iterator[str]:
    """The tables."""
    yield f"# Ablations on {dataset}\n"
    yield (
        f"Validation split, full ranking at k = {K}, leave-{HOLDOUT}-last-out; the test split is "
        "not used. One setting is changed at a time; a name alone is the preset as it is. "
        "Figures are of the best epoch by NDCG any; where a row has several seeds, mean ± standard "
        "deviation over them. PolAUC: the chance that a held-out like outscores a held-out dislike "
        "of the same user, in the ranking and, where a head predicts the polarity of items, by its "
        "predictions. Made by\n"
    )
    options = "[--seeds 3] [--epochs 8] [--only TABLE]"
    yield f"    python benchmarks/ablations.py --dataset {dataset} --data-dir DATA {options}\n"
    popular = done["rows"]["MostPop"]["0"]
    shown = ", ".join(f"{name} {popular[key]:.4f}" for key, name in MEASURES.items())
    yield f"For scale, MostPop: {shown}.\n"
    for title, rows in TABLES.items():
        yield f"## {title}\n"
        yield "| | " + " | ".join(MEASURES.values()) + " | of predictions | seeds | best epoch |"
        yield "| --- |" + " ---: |" * (len(MEASURES) + 3)
        missing = []
        for name, row in rows.items():
            runs = list(done["rows"].get(row.key, {}).values())
            if not runs:
                missing.append(name)
                continue
            cells = [cell([run[key] for run in runs]) for key in MEASURES]
            predicted = [run[PREDICTED] for run in runs if PREDICTED in run]
            cells.append(cell(predicted) if predicted else "–")
            epochs = [f"{run['epoch']} of {run['most_epochs']}" for run in runs]
            yield f"| {name} | {' | '.join(cells)} | {len(runs)} | {', '.join(epochs)} |"
        if missing:
            yield f"\nNot run: {'; '.join(missing)}."
        yield ""
    yield from depth_markdown(done["depths"])


def cell(values: list[float]) -> str:
    """Mean, and standard deviation if there is any."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def depth_markdown(depths: dict[str, Any]) -> Iterator[str]:
    """The table of over-smoothing."""
    yield "## Q2. Over-smoothing by depth of the graph encoder\n"
    yield (
        "MAD: mean cosine distance over all pairs of vectors. Energy: Dirichlet energy over pairs "
        "that share items, between 0 (neighbours are equal) and 1. Untrained → after "
        f"{DEPTH_EPOCHS} epochs where there are two figures; one seed, a model per depth. "
        "Users' vectors leave the last layer, feedback nodes' enter it and are "
        "compared within their kind.\n"
    )
    names = {
        "mad_users": "MAD users",
        "energy_users": "energy users",
        "mad_nodes": "MAD nodes",
        "energy_nodes": "energy nodes",
    }
    yield "| layers | aggregation | " + " | ".join(names.values()) + " | NDCG any |"
    yield "| ---: | --- |" + " ---: |" * (len(names) + 1)
    for key, figures in sorted(depths.items(), key=lambda entry: int(entry[0].split()[1])):
        name, depth = key.split()
        cells = [
            " → ".join(
                f"{figures[at][measure]:.3f}" for at in ("start", "trained") if at in figures
            )
            for measure in names
        ]
        ndcg = f"{figures['ndcg_any']:.4f}" if "trained" in figures else "–"
        yield f"| {depth} | {AGGREGATIONS[name]} | {' | '.join(cells)} | {ndcg} |"
    yield ""


if __name__ == "__main__":
    main()
