"""Learning on from new events, beside a training from scratch: quality and cost.

    python benchmarks/update.py --dataset ml-100k --data-dir DATA

The log is read in order of time. The flagship is trained on the first part; then new events come,
and their newest fifth per user is the test split of three recommenders that know all events before
it: the one that was trained before, its update, and one that is trained from scratch.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import click
import numpy as np

from emorec import EmoRec
from emorec.comparison import evaluate_scorer
from emorec.data.datasets import load_dataset
from emorec.threads import threads
from emorec.updating import BEFORE, judge_update

SHOWN = ("ndcg_any", "ndcg_likes", "recall_dislikes", "disliked_share")


@click.command()
@click.option("--dataset", default="synthetic", show_default=True, help="Name of a data set.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where data sets are.")
@click.option(
    "--known",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="Share of the log, the oldest part, that the first training has.",
)
@click.option(
    "--new",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of the log, the next part, that is new then.",
)
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Settings of the flagship.",
)
def main(
    dataset: str,
    data_dir: Path | None,
    known: float,
    new: float,
    seed: int,
    settings: tuple[str, ...],
) -> None:
    """Compare an update with the recommender before it and with one trained from scratch."""
    log = load_dataset(dataset, data_dir)
    order = np.argsort(log.time, kind="stable")
    first, last = (int(share * len(log)) for share in (known, min(1.0, known + new)))
    options = (f"training.seed={seed}", "training.threads=1", *settings)
    with threads(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = EmoRec("emorec", *options).fit(log.select(order[:first]).reindexed())
        updated = before.update(log.select(order[first:last]).reindexed())
        scratch = EmoRec("emorec", *options).fit(updated.split)
        judged = judge_update(updated, before)
    rows = {
        "before": (judged.results[BEFORE], before),
        "updated": (judged.results["emorec"], updated),
        "from scratch": (evaluate_scorer(scratch.scorer(), updated.split, 10), scratch),
    }
    click.echo(
        f"{dataset}: {first:,} events, then {last - first:,} new ones; {len(updated.split.test):,} "
        f"are the test split\n"
    )
    click.echo(f"| | {' | '.join(SHOWN)} | epochs | seconds |\n|---|{'---:|' * (len(SHOWN) + 2)}")
    for name, (result, recommender) in rows.items():
        summary = result.summary()
        epochs = sum(record.part == "encoders" for record in recommender.records)
        cost = sum(record.seconds for record in recommender.records)
        figures = " | ".join(f"{summary[each]:.4f}" for each in SHOWN)
        click.echo(f"| {name} | {figures} | {epochs} | {cost:.0f} |")


if __name__ == "__main__":
    main()
