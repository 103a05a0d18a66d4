"""Where the time of an evaluation goes.

    python benchmarks/evaluation_bench.py RUN

makes the lists of all test users of a RUN folder, their metrics, bootstrap intervals and report, on
one thread, without the baselines: CPU seconds of each part, less those of the parts within it, and
the share of the whole. Products are what lists cannot do without: the encoders' linear maps and
attention, and users' vectors by those of all items; `times products` is what lists and metrics cost
beside them. Nothing is written into RUN.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
from machine import machine

import emorec.comparison as comparison
import emorec.evaluation.scores as scores
import emorec.evaluation.top_k as top_k
import emorec.nn.sequence_encoder as sequence_encoder
import emorec.reports.report as report
import emorec.run_report as run_report
from emorec.experiment import write_results
from emorec.inference.ranking import ModelScorer, Terms
from emorec.memory import keep_freed_memory
from emorec.nn.feedback_paths import FeedbackPaths
from emorec.nn.feedback_sum import FeedbackSum
from emorec.nn.model import Recommender
from emorec.recommender import EmoRec
from emorec.storage.files import write_text

LISTS = "lists and metrics"
LINEAR, ATTENTION = "encoders: linear maps", "encoders: attention"
PARTS: tuple[tuple[Any, str, str], ...] = (
    (ModelScorer, "__init__", "sequences of events"),
    (comparison, "excluded_items", "seen items"),
    (ModelScorer, "_sequences", "batches of events"),
    (ModelScorer, "_graph", "batches of the graph"),
    (ModelScorer, "_states", "encoders: all else"),
    (torch.nn.functional, "linear", LINEAR),
    (sequence_encoder, "norm_linear", LINEAR),
    (sequence_encoder, "add_linear", LINEAR),
    (sequence_encoder, "hawkes_attention", ATTENTION),
    (FeedbackSum, "forward", "feedback sum"),
    (FeedbackPaths, "forward", "paths"),
    (ModelScorer, "_terms", "products and their sums"),
    (Terms, "total", "products and their sums"),
    (scores, "_check_scores", "check of the scores"),
    (top_k, "_without", "masking"),
    (top_k, "_top_k", "top k"),
    (comparison, "evaluate", "metrics"),
    (comparison, "popularity_of_lists", "popularity"),
    (comparison, "_predicted_polarity", "predicted polarity"),
    (report, "confidence_intervals", "bootstrap intervals"),
    (report, "plane_svg", "plots"),
    (report, "curves_svgs", "plots"),
    (report, "reliability_svg", "plots"),
    (run_report, "examples_of", "users with reasons"),
    (run_report, "versions", "versions"),
)
LATER = {"bootstrap intervals", "plots", "users with reasons", "versions"}  # of the report


class Spent:
    """CPU seconds by part, each without those of the parts that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._within = [0.0]

    def timed(self, part: str, act: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose time counts as that of a part."""

        def measured(*arguments: Any, **named: Any) -> Any:
            self._within.append(0.0)
            started = time.process_time()
            try:
                return act(*arguments, **named)
            finally:
                spent = time.process_time() - started
                self.seconds[part] += spent - self._within.pop()
                self._within[-1] += spent

        return measured

    @contextmanager
    def of_parts(self) -> Iterator[None]:
        """Times the functions of all `PARTS`."""
        with ExitStack() as stack:
            for owner, name, part in PARTS:
                timed = self.timed(part, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, timed))
            yield


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here.")
def main(run: Path, json_path: Path | None) -> None:
    """CPU seconds of the parts of evaluating RUN, and of its report."""
    torch.set_num_threads(1)
    keep_freed_memory()
    recommender = EmoRec.load(run)
    users = np.unique(recommender.split.test.user)
    comparison.evaluate_scorer(recommender.scorer(), of_few_users(recommender, users[:128]), 10)
    spent = Spent()
    without_baselines = patch.object(comparison, "names_for", lambda num_items: ())
    with without_baselines, spent.of_parts(), tempfile.TemporaryDirectory() as folder:
        found = spent.timed("rest of the lists", comparison.compare_runs)(
            {"EmoRec": recommender}, recommender.config.evaluation.k, progress=False
        )
        spent.timed("rest of the report", write_results)(Path(folder), recommender, found)
    products = products_alone(recommender, len(users))
    products += spent.seconds[LINEAR] + spent.seconds[ATTENTION]
    of_report = LATER | {"rest of the report"}
    # The reasons of the report run through the model as well: their parts are of a few users.
    lists = sum(value for part, value in spent.seconds.items() if part not in of_report)
    rows = {part: spent.seconds[part] for part in dict.fromkeys(each for *_, each in PARTS)}
    rows |= {part: value for part, value in spent.seconds.items() if part not in rows}
    whole = sum(rows.values())
    click.echo("| part | CPU s | share |\n|---|---:|---:|")
    for part, value in rows.items():
        click.echo(f"| {part} | {value:.3f} | {value / whole:.0%} |")
    facts = {
        "users": len(users),
        LISTS: round(lists, 3),
        "report": round(whole - lists, 3),
        "products": round(products, 3),
        "times products": round(lists / products, 2),
    }
    click.echo("\n" + "\n".join(f"{name}: {value}" for name, value in facts.items()))
    if json_path:
        parts = {part: round(value, 4) for part, value in rows.items()}
        facts = {"machine": machine(), **facts, "cpu_seconds": parts}
        write_text(json_path, json.dumps(facts, indent=1) + "\n")


def of_few_users(recommender: EmoRec, users: np.ndarray) -> Any:
    """The split with the test events of a few users, to warm up."""
    split = recommender.split
    return type(split)(split.train, split.valid, split.test.of_users(users))


def products_alone(recommender: EmoRec, num_users: int) -> float:
    """CPU seconds of nothing but the products of users' vectors by those of all items."""
    model: Recommender = recommender.model
    tables = [] if model.feedback_sum is None else [model.feedback_sum.target.weight]
    tables += [] if model.item_embedding is None else [model.item_vectors]
    size = scores.users_at_a_time(tables[0].shape[0])
    times = []
    with torch.inference_mode():
        for _ in range(3):
            started = time.process_time()
            for table in tables:
                vectors = torch.randn(size, table.shape[1])
                for _ in range(-(-num_users // size)):
                    vectors @ table.T
            times.append(time.process_time() - started)
    return float(np.median(times))


if __name__ == "__main__":
    main()
