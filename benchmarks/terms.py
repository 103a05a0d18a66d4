"""What each term of the flagship's ranking brings, and whether the graph's kinds matter.

    python benchmarks/quality.py train --dataset ml-1m --data-dir DATA
    python benchmarks/terms.py --dataset ml-1m --data-dir DATA

Takes the flagship as validation chose it, before its refit, from the runs that ``quality.py train``
has made. A term is left out, or the graph's part is trained again on another graph; validation
chooses the weights of the remaining terms anew, and ranks. The parts are trained apart, so the
encoders stay as they are. The test split is not used. Adds to ``results/terms.json`` and writes
``results/terms.md``: a table per data set, with paired tests over users against the whole ranking.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import pandas as pd
import torch
from ablations import shuffled_source
from quality import run_folders, validated_model, with_dataset
from quality_report import Holdout, K

from emorec.building import build_model
from emorec.config import Config
from emorec.data.datasets import load_dataset
from emorec.data.sequences import EventSequences
from emorec.data.splits import Split
from emorec.evaluation.significance import compare, mean_over_seeds
from emorec.evaluation.top_k import evaluate, recommend_top_k
from emorec.inference.ranking import ModelScorer
from emorec.nn.feedback_paths import FeedbackPaths
from emorec.nn.model import Recommender
from emorec.run_folder import read_config
from emorec.storage.files import write_text
from emorec.training.loop import train
from emorec.training.tuning import tune_ranking
from emorec.training.validation import Validation

HERE = Path(__file__).parent
METRICS = {
    "ndcg_any": "NDCG any",
    "ndcg_likes": "NDCG likes",
    "recall_dislikes": "Recall dislikes",
    "disliked_share": "disliked share",
}
WHOLE = "the whole ranking"
SHUFFLED = "the graph's kinds of feedback shuffled over the events"
NO_NODES = "no feedback nodes: the graph does not know kinds"


def without(*names: str) -> Callable[[Recommender], None]:
    """Leaves modules of the graph out."""

    def change(model: Recommender) -> None:
        for name in names:
            setattr(model, name, None)

    return change


def without_aversion(model: Recommender) -> None:
    """Ranks without the polarity head and without the dislikes."""
    model.aversion = 0.0


CHANGES: dict[str, Callable[[Recommender], None]] = {
    "without the graph": without("feedback_sum"),
    "without paths": without("feedback_paths"),
    "without graph, paths and dislikes": without("feedback_sum", "feedback_paths"),
    "without liked and dislikes (aversion 0)": without_aversion,
}


@click.command()
@with_dataset
def main(dataset: str, data_dir: Path | None, runs: Path, holdout: Holdout) -> None:
    """Measures the terms of the finished runs of a data set."""
    torch.set_num_threads(1)
    split = holdout.split(load_dataset(dataset, data_dir))
    per_user: dict[str, list[pd.DataFrame]] = {}
    shares: dict[str, list[float]] = {}
    folders = run_folders(runs, dataset, holdout)
    for folder in folders:
        for name, found in variants(split, folder):
            per_user.setdefault(name, []).append(found.per_user)
            shares.setdefault(name, []).append(found.summary()["disliked_share"])
            click.echo(f"{folder.name} {name}: {found.summary()}")
    models = {name: mean_over_seeds(frames) for name, frames in per_user.items()}
    tests = compare(models, WHOLE, list(METRICS)).reset_index()
    tests["p"] = tests[["holm_t", "holm_wilcoxon"]].max(axis=1)
    rows = {
        name: {metric: float(frame[metric].mean()) for metric in METRICS if metric in frame}
        | {"disliked_share": float(np.mean(shares[name]))}
        for name, frame in models.items()
    }
    target = HERE / "results" / "terms.json"
    done: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    p_values = tests[["peer", "metric", "p"]].to_dict("records")
    done[f"{dataset}-{holdout.name}"] = {"seeds": len(folders), "rows": rows, "tests": p_values}
    write_text(target, json.dumps(done, indent=1) + "\n")
    write_text(target.with_suffix(".md"), "\n".join(markdown(done)) + "\n")


def variants(split: Split, folder: Path) -> Iterator[tuple[str, Any]]:
    """The whole ranking and what is left out of it, evaluated on validation."""
    config = read_config(folder)
    yield WHOLE, measured(split, config, validated_model(split, folder))
    for name, change in CHANGES.items():
        model = validated_model(split, folder)
        change(model)
        yield name, measured(split, config, model)
    with patch.object(FeedbackPaths, "dislikes", lambda self, graph: self(graph) * 0):
        yield "without dislikes", measured(split, config, validated_model(split, folder))
    with patch.object(Recommender, "graph_source", shuffled_source):
        model = validated_model(split, folder)
        model.feedback_sum = trained_sum(split, config)
        yield SHUFFLED, measured(split, config, model)
    blind = config.with_settings("graph.feedback_nodes=false")
    model = build_model(blind, split.train.num_users, split.train.num_items)
    model.feedback_sum = None
    whole = validated_model(split, folder)
    whole.feedback_sum = None
    model.load_state_dict(whole.state_dict())
    model.feedback_sum = trained_sum(split, blind)
    yield NO_NODES, measured(split, blind, model)


def trained_sum(split: Split, config: Config) -> Any:
    """The feedback sum, trained without the encoders."""
    model = build_model(config, split.train.num_users, split.train.num_items)
    model.item_embedding = model.sequence_encoder = model.polarity = None
    model.feedback_paths, model.aversion = None, 0.0
    start = replace_start(config)
    train(model, start, split.train, split.valid_targets, progress=False)
    return model.feedback_sum


def replace_start(config: Config) -> Config:
    """The same run for a model without embeddings."""
    return config.model_copy(update={"model": config.model.model_copy(update={"start": "random"})})


def measured(split: Split, config: Config, model: Recommender) -> Any:
    """Chooses the weights anew and evaluates on validation."""
    events = EventSequences.build(split.train)
    valid = split.valid_targets
    tune_ranking(model, config, Validation(model, config, split.train, events, valid), False)
    users = np.unique(valid.user)
    topk = recommend_top_k(ModelScorer(model, split.train), users, split.train, K)
    return evaluate(topk, users, valid, K)


def markdown(done: dict[str, Any]) -> Iterator[str]:
    """The tables."""
    yield "# What the terms of the ranking bring\n"
    yield (
        "Validation split, full ranking at k = 10, the flagship before its refit. A term is left "
        "out, or the graph's part is trained on another graph; validation then chooses the weights "
        "of the other terms anew. Marks: differs from the whole ranking over users (the greater p "
        "of paired t-test and Wilcoxon test, for the share the t-test; Holm-corrected over the "
        "table), \\* p below .05, \\*\\* below .01, \\*\\*\\* below .001. Made by "
        "`python benchmarks/terms.py --dataset NAME --data-dir DATA`.\n"
    )
    for name, table in done.items():
        seeds = "one seed" if table["seeds"] == 1 else f"{table['seeds']} seeds"
        yield f"## {name}, {seeds}\n"
        yield "| | " + " | ".join(METRICS.values()) + " |"
        yield "| --- |" + " ---: |" * len(METRICS)
        p_values = {(each["peer"], each["metric"]): each["p"] for each in table["tests"]}
        for row, figures in table["rows"].items():
            cells = [
                f"{figures[metric]:.4f}{stars(p_values.get((row, metric), math.nan))}"
                for metric in METRICS
            ]
            yield f"| {row} | {' | '.join(cells)} |"
        yield ""


def stars(p_value: float) -> str:
    """Marks of significance."""
    return "\\*" * sum(p_value < level for level in (0.05, 0.01, 0.001))


if __name__ == "__main__":
    main()
