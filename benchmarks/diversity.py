"""What diverse lists cost: similarity within lists and NDCG, by the value of ``diversity``.

    python benchmarks/diversity.py

Fits the flagship to the embedded data set, whose items have true topics, and evaluates its lists on
the test split. Prints the table of docs/usage.md.
"""

from __future__ import annotations

import click
import numpy as np
import torch

from emorec import EmoRec
from emorec.data.splits import split_interactions
from emorec.data.synthetic import generate
from emorec.evaluation.top_k import TopK, evaluate
from emorec.inference.diversity import vectors_of_items

K = 10
VALUES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


@click.command(help=__doc__)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--epochs", type=int, default=10, show_default=True)
def main(seed: int, epochs: int) -> None:
    """Fits, recommends at each value, and prints a row for it."""
    log = generate()
    split = split_interactions(log.interactions)
    settings = f"training.seed={seed}", f"training.epochs={epochs}"
    recommender = EmoRec("emorec", *settings).fit(split)
    users = np.unique(split.test.user)
    ids = split.test.users.lookup(users)
    unit = torch.nn.functional.normalize(vectors_of_items(recommender.model), dim=1)
    topic = log.truth.topic[log.interactions.items.indices(split.test.items.ids)]
    pairs = np.triu_indices(K, 1)
    print("| diversity | mean cosine | pairs of one topic | topics | NDCG any | NDCG likes |")
    print("|---|---|---|---|---|---|")
    for value in VALUES:
        lists = recommender.recommend(ids, K, diversity=value, before_test=True)
        items = split.test.items.indices(lists["item"].tolist()).reshape(len(users), K)
        vectors = unit[torch.from_numpy(items)]
        cosine = (vectors @ vectors.mT).numpy()[:, *pairs].mean()
        topics = topic[items]
        same = (topics[:, :, None] == topics[:, None])[:, *pairs].mean()
        number = np.mean([len(set(row)) for row in topics.tolist()])
        scores = torch.zeros(items.shape)
        found = evaluate(TopK(torch.from_numpy(items), scores), users, split.test, K).summary()
        print(
            f"| {value:g} | {cosine:.2f} | {same:.2f} | {number:.1f} | {found['ndcg_any']:.3f} | "
            f"{found['ndcg_likes']:.3f} |"
        )


if __name__ == "__main__":
    main()
