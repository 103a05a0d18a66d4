"""emorec-evaluate."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from emorec.cli.common import (
    RUN,
    how_to_run,
    load_run,
    print_results,
    user_errors,
)
from emorec.experiment import judge_run
from emorec.files import to_json

__all__ = ["evaluate"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option("-k", type=click.IntRange(1), help="Length of the lists.  [default: the run's]")
@how_to_run
@click.option("--json", "as_json", is_flag=True, help="All metrics as JSON.")
@user_errors
def evaluate(
    run: Path,
    k: int | None,
    backend: str | None,
    device: str | None,
    aversion: float | None,
    as_json: bool,
) -> None:
    """Judges a trained RUN on its test part, beside simple baselines.

    \b
    any       every held-out item counts as relevant
    likes     only those with positive feedback count
    dislikes  held-out items with negative feedback: recommended ones count
              against a model; their share is that of dislikes among all
              held-out items that were recommended, and nDCL weighs them by
              rank and strength, 1 being the worst list there is
    NDCG      divides by what k hits would give, however few items are held out
    both      NDCG of likes less that of dislikes

    Where the model predicts which items a user will like, the predictions for the held-out events
    are judged too, beside the mean reaction to each item: how often a like is put above a dislike
    of the same user (PolAUC) or of anybody (ROC-AUC), the mean squared error (Brier), and how far
    probabilities are from what happened (ECE).
    """  # noqa: D301
    recommender = load_run(run, backend, aversion, device)
    if len(recommender.split.test) == 0:
        raise click.UsageError(f"{run} holds no test part")
    k = k or recommender.config.evaluation.k
    results, predictions = judge_run(recommender, k, sys.stderr.isatty())
    if as_json:
        summaries = {
            name: (results[name].summary() if name in results else {}) | predictions.get(name, {})
            for name in results | predictions
        }
        click.echo(to_json(summaries, indent=2))
    else:
        print_results(results, predictions, k)
