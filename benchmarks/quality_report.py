"""What `quality.py` holds out, and its pages: tables, their figures, the rows of the documents."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from emorec.data.interactions import Interactions
from emorec.data.splits import Split, split_interactions
from emorec.evaluation.top_k import Evaluation
from emorec.reports.plots import plane_svg
from emorec.reports.tables import PREDICTIONS, comparison_markdown
from emorec.storage.files import to_json, write_text

HERE = Path(__file__).parent
TABLES = (HERE.parent / "README.md", HERE.parent / "docs" / "results.md")
"""Documents with short tables, each between ``<!-- quality:NAME -->`` and ``<!-- end -->``."""
K = 10
NEIGHBOURS = 20  # of a disliked item, for responsiveness
LOW_DISLIKE = "emorec, low-dislike"


@dataclass(frozen=True)
class Holdout:
    """What is held out.

    Attributes:
        option: A number: so many events of each user, the last ones. "time": the last tenth of the
            log, after one cutoff for all; then no model has seen anybody's future. "random": a
            fifth of the log, and a fifth of the rest for validation, for models without order.
    """

    option: str = str(K)

    @classmethod
    def parse(cls, text: str) -> Holdout:
        """From "time", "random" or a number of events.

        Raises:
            click.BadParameter: If it is none of them.
        """
        if text not in ("time", "random") and not (text.isdecimal() and int(text) > 0):
            raise click.BadParameter(
                f"expected 'time', 'random' or a number of events, got {text!r}"
            )
        return cls(text)

    @property
    def n(self) -> int:
        """Events of each user; 0: of the log."""
        return int(self.option) if self.option.isdecimal() else 0

    @property
    def name(self) -> str:
        """In names of files."""
        return f"leave-{self.n}" if self.n else self.option

    @property
    def settings(self) -> dict[str, Any]:
        """The section ``split`` of a run's configuration."""
        if self.n:
            return {"method": "leave_last_out", "n": self.n}
        return {"method": self.option} | ({"quantile": 0.8} if self.option == "random" else {})

    def split(self, log: Interactions) -> Split:
        """The split of a log."""
        return split_interactions(log, **self.settings)

    def __str__(self) -> str:
        if not self.n:
            return {"time": "the last tenth of the log", "random": "a random fifth of the log"}[
                self.option
            ]
        return (
            "the last event of each user"
            if self.n == 1
            else f"the last {self.n} events of each user"
        )


@dataclass
class Results:
    """What the table shows.

    Attributes:
        models: Evaluations on the test split, one per seed, by name.
        facts: What else is known of each: settings, seconds, PolAUC.
        predictions: How well polarities of the test split are predicted, by name.
        frontier: Summaries of the flagship's first seed, aversion by aversion.
        reached: NDCG any that peers reached on validation, by name.
        curve: Seconds of training, and that NDCG, after each epoch of the flagship's first seed.
        earlier: Summaries of models from an earlier table, which were not evaluated again. They
            have rows in the short tables and the plot, and no test.
    """

    models: dict[str, list[Evaluation]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[str, dict[str, float]] = field(default_factory=dict)
    frontier: list[dict[str, float]] = field(default_factory=list)
    reached: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)
    earlier: dict[str, list[dict[str, float]]] = field(default_factory=dict)


def results_file(dataset: str, holdout: Holdout) -> Path:
    """Where the figures of a table are."""
    name = dataset if holdout == Holdout() else f"{dataset}-{holdout.name}"
    return HERE / "results" / f"quality-{name}.json"


def write(results: Results, dataset: str, holdout: Holdout) -> None:
    """The table, the figures behind it, and the plane of likes and dislikes."""
    target = results_file(dataset, holdout).with_suffix("")
    name = target.name.removeprefix("quality-")
    summaries = {name: [run.summary() for run in runs] for name, runs in results.models.items()}
    own = {name: runs for name, runs in summaries.items() if name.startswith("emorec")}
    summaries = {**{n: s for n, s in summaries.items() if n not in own}, **results.earlier, **own}
    means = {
        name: {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        for name, runs in summaries.items()
    }
    comparison = comparison_markdown(results.models, K, "emorec", no_peers=("Random", LOW_DISLIKE))
    write_text(
        target.with_suffix(".md"),
        "\n".join(markdown(results, dataset, holdout, comparison, means)) + "\n",
    )
    data = {
        "models": summaries,
        "facts": results.facts,
        "predictions": results.predictions,
        "frontier": results.frontier,
        "curve": results.curve,
    }
    write_text(target.with_suffix(".json"), to_json(data, indent=1) + "\n")
    svg = plane_svg(
        {name: mean for name, mean in means.items() if name != "Random"},
        K,
        curves={"emorec at growing aversion": results.frontier},
        standalone=True,
    )
    write_text(target.with_suffix(".svg"), svg)
    rows = "\n".join(short_rows(means)) + "\n"
    block = re.compile(rf"(<!-- quality:{re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    for page in TABLES:
        text = page.read_text(encoding="utf-8")
        write_text(page, block.sub(lambda match: match[1] + rows + match[2], text))
    click.echo(f"wrote {target}.md, .json, .svg")


def markdown(
    results: Results,
    dataset: str,
    holdout: Holdout,
    comparison: str,
    means: dict[str, dict[str, float]],
) -> Iterator[str]:
    """The page."""
    yield f"# Quality on {dataset}\n"
    options = f"--dataset {dataset} --holdout {holdout.option} --data-dir DATA"
    yield (
        f"Full ranking at k = {K}; held out: {holdout}. Everything is chosen on validation, "
        "except the definition of [the low-dislike setting](../README.md#quality). "
        f"Made by `python benchmarks/quality.py table {options}`, after "
        "its `train` and `peer_lists.py`.\n"
    )
    if 0 < holdout.n < K:
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, K + 1))
        best = sum(1 / math.log2(rank + 1) for rank in range(1, holdout.n + 1))
        yield (
            f"NDCG is out of {K} relevant items, of which only {holdout.n} can be had: times "
            f"{ideal / best:.4f} it is the usual figure.\n"
        )
    yield comparison + "\n"
    if results.earlier:
        yield (
            "From an earlier table by the same scorer and split, without intervals or tests: "
            "their lists were not at hand.\n"
        )
        yield from short_rows({name: runs[0] for name, runs in results.earlier.items()})
        yield ""
    yield "## emorec at growing aversion\n"
    keys = (
        "recall_any",
        "ndcg_any",
        "recall_likes",
        "ndcg_likes",
        "recall_dislikes",
        "disliked_share",
        "delta_ndcg",
    )
    yield "| aversion | " + " | ".join(keys) + " |\n|" + " ---: |" * (len(keys) + 1)
    for row in results.frontier:
        yield f"| {row['aversion']:g} | " + " | ".join(_cell(row[key]) for key in keys) + " |"
    yield from passed_at(means, results.frontier)
    yield "\n## Predicted polarity\n"
    yield (
        "P(positive) of each held-out event against its observed polarity: by the item's share of "
        "positive events (ItemPrior) and by emorec's polarity head. PolAUC: how often a like is "
        "ranked above a dislike of the same user; ROC-AUC: of any user. Brier: mean squared error; "
        "ECE: expected calibration error.\n"
    )
    yield "| | " + " | ".join(PREDICTIONS.values()) + " |\n| --- |" + " ---: |" * len(PREDICTIONS)
    for name, figures in results.predictions.items():
        yield f"| {name} | " + " | ".join(_cell(figures[key]) for key in PREDICTIONS) + " |"
    yield from times_to_quality(results)
    yield "\n## Settings, cost, and what else was measured\n"
    yield (
        "PolAUC: the chance that a held-out like outscores a held-out dislike of the same user. "
        f"Responsiveness: the share of a disliked item's {NEIGHBOURS} nearest that leaves the "
        "list; locality: the share of all others that stays. Training seconds are of a shared "
        "machine.\n"
    )
    for name, facts in results.facts.items():
        yield f"* **{name}**: `{to_json(facts)}`"


def passed_at(
    means: dict[str, dict[str, float]], frontier: list[dict[str, float]]
) -> Iterator[str]:
    """For each other model, the smallest aversion at which the flagship beats it on both sides."""
    yield "\n## More likes and fewer dislikes than each other model\n"
    yield (
        "The smallest of the aversions above at which emorec has a higher NDCG of likes and a "
        "lower recall of dislikes than the other model, on the test split, first seed.\n"
    )
    columns = ("its NDCG likes", "its recall of dislikes", "aversion", "likes", "dislikes")
    yield "| | " + " | ".join(columns) + " |"
    yield "| --- |" + " ---: |" * 5
    for name, mean in means.items():
        if name.startswith("emorec") or name == "Random":
            continue
        likes, dislikes = mean["ndcg_likes"], mean["recall_dislikes"]
        ahead = [
            row
            for row in frontier
            if row["ndcg_likes"] > likes and row["recall_dislikes"] < dislikes
        ]
        ours = ["none", "", ""]
        if ahead:
            row = ahead[0]
            ours = [f"{row['aversion']:g}", _cell(row["ndcg_likes"]), _cell(row["recall_dislikes"])]
        yield f"| {name} | {_cell(likes)} | {_cell(dislikes)} | " + " | ".join(ours) + " |"


def times_to_quality(results: Results) -> Iterator[str]:
    """How soon the flagship was as good as each peer became."""
    if not results.reached:
        return
    yield "\n## Time to the peers' quality\n"
    yield (
        "NDCG any on validation, and the seconds of training after which it was reached: the "
        "peer's CPU seconds to its chosen epoch, and wall seconds of the flagship's first seed to "
        "the first epoch that was as good, validations included.\n"
    )
    yield "| | its NDCG | its seconds | emorec's seconds |\n| --- | ---: | ---: | ---: |"
    for name, score in results.reached.items():
        seconds = next((s for s, ndcg in results.curve if ndcg >= score), None)
        ours = "not reached" if seconds is None else f"{seconds:.0f}"
        yield f"| {name} | {score:.4f} | {results.facts[name]['training_seconds']:.0f} | {ours} |"


def short_rows(means: dict[str, dict[str, float]]) -> Iterator[str]:
    """The short table of README.md and docs/results.md."""
    keys = {
        "recall_any": "Recall any",
        "ndcg_any": "NDCG any",
        "recall_likes": "Recall likes",
        "ndcg_likes": "NDCG likes",
        "recall_dislikes": "Recall dislikes",
        "disliked_share": "disliked share",
    }
    yield "| | " + " | ".join(keys.values()) + " |"
    yield "| --- |" + " ---: |" * len(keys)
    for name, mean in means.items():
        yield f"| {name} | " + " | ".join(_cell(mean[key]) for key in keys) + " |"


def _cell(value: float) -> str:
    """A figure; a dash where no user has what it is made of, such as a like and a dislike."""
    return "–" if math.isnan(value) else f"{value:.4f}"
