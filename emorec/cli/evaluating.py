"""emorec-evaluate."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from emorec.cli.common import (
    RUN,
    how_to_run,
    load_run,
    print_results,
    quick_imports,
    user_errors,
)
from emorec.config import ConfigError
from emorec.storage.files import to_json

__all__ = ["evaluate"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("runs", type=RUN, nargs=-1, required=True, metavar="RUN [RUN ...]")
@click.option(
    "-k",
    type=click.IntRange(1, 10_000),
    help="Length of the lists.  [default: that of the first run]",
)
@how_to_run
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print all metrics as JSON, by model. For several runs: metrics under models, the name of "
    "the first run under ours, its differences from the others under differences.",
)
@user_errors
def evaluate(
    runs: tuple[Path, ...],
    k: int | None,
    backend: str | None,
    device: str | None,
    aversion: float | None,
    as_json: bool,
) -> None:
    """Evaluate a trained RUN on its test split, beside tuned baselines.

    Several runs with the same test split are evaluated side by side, under the names of their
    folders, and the first is compared with each of the others by paired tests.

    \b
    any       every held-out item counts as relevant
    likes     only those with positive feedback count
    dislikes  held-out items with negative feedback: recommended ones count
              against a model; their share is that of dislikes among all
              held-out items that were recommended, and nDCL weighs them by
              rank and strength, 1 being the worst possible list
    NDCG      divides by what k hits would give, however few items are held out
    both      NDCG of likes less that of dislikes

    Runs with sequence.request_time are given the time of each user's first held-out event. A note
    names them; in JSON they have request_time true.

    If the model predicts which items a user will like, its predictions for the held-out events are
    evaluated too, beside the item prior: how often a like is ranked above a dislike
    of the same user (PolAUC) or of any user (ROC-AUC), the mean squared error (Brier), and the
    expected calibration error (ECE).
    """  # noqa: D301
    with quick_imports():
        from emorec.comparison import compare_runs
        from emorec.reports.differences import differences

    names = _names(runs)
    recommenders = {}
    for name, run in zip(names, runs, strict=True):
        try:
            recommender = load_run(run, backend, aversion, device)
        except ConfigError as error:
            raise ConfigError(f"{run}: {error}" if len(runs) > 1 else str(error)) from error
        if len(recommender.split.test) == 0:
            raise click.UsageError(f"{run} has no test split")
        recommenders[name if len(runs) > 1 else recommender.config.preset] = recommender
    ours, first = next(iter(recommenders.items()))
    k = k or first.config.evaluation.k
    comparison = compare_runs(recommenders, k, sys.stderr.isatty())
    results, predictions = comparison.results, comparison.predictions
    settings = comparison.settings
    if as_json:
        summaries = {
            name: (results[name].summary() if name in results else {})
            | predictions.get(name, {})
            | ({"settings": settings[name]} if name in settings else {})
            | ({"request_time": True} if name in comparison.request_time else {})
            for name in results | predictions
        }
        compared = {
            "models": summaries,
            "ours": ours,
            "differences": differences(results, ours).to_dict("records"),
        }
        click.echo(to_json(compared if len(runs) > 1 else summaries, indent=2))
    else:
        print_results(comparison, k, ours if len(runs) > 1 else None)


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that distinguish them, and from baselines: "a", or "x/a".

    Raises:
        click.UsageError: If a path is given twice.
    """
    from emorec.baselines.tuned import BASELINES

    parts = [Path(os.path.abspath(path)).parts for path in paths]
    twice = [path for path, own in zip(paths, parts, strict=True) if parts.count(own) > 1]
    if twice:
        raise click.UsageError(f"{twice[0]} is given twice")
    reserved = {*BASELINES, "ItemPrior"}
    length, names = 1, [own[-1] for own in parts]
    while len({*names, *reserved}) < len(names) + len(reserved):
        length += 1
        names = ["/".join(own[-length:]) for own in parts]
    return names
