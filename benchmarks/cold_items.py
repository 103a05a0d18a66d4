"""Cold items: a tenth of the items held out of training, and recommended by their features.

    python benchmarks/cold_items.py --data-dir DATA --preset emorec-graph

For each seed, a tenth of the items of MovieLens-1M is drawn. Their events are left out of the
training log, as are each user's ten newest events. The model is trained on the rest, with titles,
genres and years of all items, and recommends

* cold items alone: recall at 10 of the user's likes among them, of all times and among the ten
  newest events. *Popular* ranks them by their events in the whole log, which nobody has for a cold
  item: it is a bound. *Content* ranks them by the cosine between their features and the sum of
  those of the user's likes;
* the whole catalogue, with and without cold items, and without their stretch: recall at 10 of the
  likes among the ten newest events, and the share of cold items in the lists and of these likes.

Figures are means over users of the means over seeds, with 95 % bootstrap intervals over users.
Choices were made on seed 0 and 1,000 users.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from machine import machine

from emorec import EmoRec
from emorec.data.datasets import load_dataset, load_items
from emorec.data.features import ItemFeatures
from emorec.data.interactions import Interactions
from emorec.data.items import read_items
from emorec.data.splits import split_interactions
from emorec.data.vocabulary import Vocabulary
from emorec.evaluation.significance import bootstrap_intervals
from emorec.training.cold_items import ColdItems

K = 10
SHARE = 0.1  # of the items, held out


@click.command(help=__doc__)
@click.option("--dataset", default="ml-1m", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--preset", default="emorec-graph", show_default=True)
@click.option("--seeds", default="1,2,3", show_default=True)
@click.option("--users", default=0, show_default=True, help="Users, drawn at random; 0: all.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file of all figures.")
def main(
    dataset: str,
    data_dir: Path | None,
    preset: str,
    seeds: str,
    users: int,
    settings: tuple[str, ...],
    output: Path | None,
) -> None:
    """Trains a model per seed, and prints a table."""
    warnings.simplefilter("ignore")
    log = load_dataset(dataset, data_dir)
    if users:
        drawn = np.random.default_rng(0).permutation(log.num_users)[:users]
        log = log.of_users(np.sort(drawn)).reindexed()
    table = load_items(dataset, data_dir)
    if table is None:
        raise click.UsageError(f"there is no table of items for {dataset} in {data_dir}")
    runs = [of_seed(log, table, preset, int(seed), settings) for seed in seeds.split(",")]
    figures = {}
    for name in runs[0]:
        values = np.stack([run[name] for run in runs])
        has_value = ~np.isnan(values).all(axis=0)
        mean = np.nanmean(values[:, has_value], axis=0)
        low, high = bootstrap_intervals(mean[:, None])
        figures[name] = [float(mean.mean()), float(low[0]), float(high[0]), int(has_value.sum())]
        click.echo(f"{name:44s} {mean.mean():.4f} ({low[0]:.4f} to {high[0]:.4f})")
    if output is not None:
        facts = {"figures": figures, "machine": machine()}
        output.write_text(json.dumps(facts, indent=2) + "\n")


def of_seed(
    log: Interactions, table: pd.DataFrame, preset: str, seed: int, settings: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Figures of each user, ``[U]``, NaN where the user has no item to find."""
    split = split_interactions(log)
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(log.num_items)[: round(SHARE * log.num_items)]
    ids = log.items.lookup(drawn)
    is_cold = split.history.items.indices(ids)
    warm = split.history.select(~np.isin(split.history.item, is_cold)).reindexed()
    chosen = f"training.seed={seed}", *settings
    recommender = EmoRec(preset, *chosen).fit(warm, items=table, progress=False)
    features = read_items(table, warm.items)[0].features
    assert features is not None
    click.echo(f"seed {seed}: {len(drawn)} cold items, {len(warm):,} events to learn from")

    catalogue, people = features.items, warm.users
    wanted = np.intersect1d(catalogue.indices(ids), np.arange(len(catalogue)))
    likes = {
        "all times": matrix(log, people, catalogue),
        "newest": matrix(split.test, people, catalogue),
    }
    events = np.bincount(catalogue.indices(log.items.ids)[log.item], minlength=len(catalogue))
    scores = {
        "random": rng.random((len(people), len(wanted))),
        "popular (a bound)": np.tile(events[wanted], (len(people), 1)),
        "content": content(warm, features)[:, wanted],
    }
    lists = {
        name: wanted[np.argsort(-each, axis=1, kind="stable")[:, :K]]
        for name, each in scores.items()
    }
    lists["model"] = listed(recommender, catalogue.lookup(wanted))
    found = {}
    for when, relevant in likes.items():
        some = np.zeros_like(relevant)
        some[:, wanted] = relevant[:, wanted]
        for name, items in lists.items():
            found[f"cold alone, likes of {when}: {name}"] = recall(items, some)
        difference = recall(lists["model"], some) - recall(lists["content"], some)
        found[f"cold alone, likes of {when}: model - content"] = difference
    newest = likes["newest"]
    is_wanted = np.zeros(len(catalogue), dtype=bool)
    is_wanted[wanted] = True
    among = every(warm, wanted)
    for name in ("without cold items", "with cold items", "with cold items, no stretch"):
        if name.endswith("no stretch"):
            recommender._cold = ColdItems.predicted(
                recommender.model, recommender.config, recommender.split, features, stretch=1.0
            )
        whom = None if name.startswith("without") else catalogue.lookup(among)
        items = listed(recommender, whom)
        found[f"catalogue, {name}: recall of likes"] = recall(items, newest)
        found[f"catalogue, {name}: of warm likes"] = recall(items, newest & ~is_wanted)
        found[f"catalogue, {name}: of cold likes"] = recall(items, newest & is_wanted)
        found[f"catalogue, {name}: cold share of lists"] = is_wanted[items].mean(axis=1)
    total = newest.sum(axis=1).astype(float)
    total[total == 0] = np.nan
    found["catalogue: cold share of likes"] = (newest & is_wanted).sum(axis=1) / total
    return found


def every(warm: Interactions, wanted: np.ndarray) -> np.ndarray:
    """The items of the log and those held out, without others of the table."""
    return np.concatenate([np.arange(warm.num_items), wanted])


def matrix(log: Interactions, people: Vocabulary, catalogue: Vocabulary) -> np.ndarray:
    """Who likes what, bool ``[U, I]``."""
    likes = log.select(log.is_positive)
    user = people.indices(log.users.ids)[likes.user]
    item = catalogue.indices(log.items.ids)[likes.item]
    found = np.zeros((len(people), len(catalogue)), dtype=bool)
    found[user[user >= 0], item[user >= 0]] = True
    return found


def content(warm: Interactions, features: ItemFeatures) -> np.ndarray:
    """Cosine of each item's features and the sum of those of the user's likes, ``[U, I]``."""
    likes = matrix(warm, warm.users, features.items).astype(np.float32)
    profile = np.asarray(likes @ features.matrix)
    return np.asarray(profile @ features.matrix.T.toarray())  # of each user up to a factor


def listed(recommender: EmoRec, candidates: list | None) -> np.ndarray:
    """The model's lists by index in the table's catalogue, int64 ``[U, K]``."""
    users = recommender.split.log.users.ids
    is_cold = candidates is not None
    frame = recommender.recommend(users, K, items=candidates, cold=is_cold)
    ids = [*recommender.split.log.items.ids, *recommender.cold_items]
    place = pd.Series(range(len(ids)), index=ids)
    return place[frame["item"]].to_numpy().reshape(len(users), K)


def recall(items: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Share of the relevant items that the lists hold, ``[U]``; NaN without any."""
    hits = np.take_along_axis(relevant, items, axis=1).sum(axis=1)
    number = relevant.sum(axis=1)
    return np.where(number > 0, hits / np.maximum(number, 1), np.nan)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
