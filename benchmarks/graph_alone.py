"""The feedback graph alone: the preset `emorec-graph` beside simple and other projects' models.

    python benchmarks/peer_lists.py --dataset ml-100k --holdout random --data-dir DATA \
        --environments ENVIRONMENTS --peer lightgcn --lists LISTS
    python benchmarks/graph_alone.py --dataset ml-100k --holdout random --data-dir DATA \
        --lists LISTS

None of the models shown is given the order of events, except those whose names end in "recency".
Each seed is one training with the preset's defaults; the others are tuned on validation. One scorer
evaluates all of them on the test split. Writes ``results/graph-alone-DATASET.md``, or
``graph-alone-DATASET-HOLDOUT.md``.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from peer_lists import list_prefix, read_top_k
from quality_report import HERE, Holdout, K

from emorec import EmoRec
from emorec.baselines.tuned import names_for, tuned_baselines
from emorec.comparison import evaluate_scorer
from emorec.config import load_config
from emorec.data.datasets import load_dataset
from emorec.evaluation.top_k import Evaluation, evaluate
from emorec.reports.tables import comparison_markdown
from emorec.storage.files import write_text

NAME = "emorec-graph"
BLIND = "emorec-graph, no feedback nodes"


@click.command(context_settings={"max_content_width": 100})
@click.option("--dataset", required=True, help="Name of a data set.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where data sets are.")
@click.option(
    "--holdout",
    default=Holdout().option,
    show_default=True,
    callback=lambda context, parameter, text: Holdout.parse(text),
    help='Events of each user, "time": the last tenth of the log, "random": a fifth of it.',
)
@click.option("--seeds", default=3, show_default=True)
@click.option("--lists", type=click.Path(path_type=Path), default=Path("runs/peers"))
def main(dataset: str, data_dir: Path | None, holdout: Holdout, seeds: int, lists: Path) -> None:
    """Train, evaluate beside others, and write the table."""
    torch.set_num_threads(1)
    split = holdout.split(load_dataset(dataset, data_dir))
    results: dict[str, list[Evaluation]] = {}
    for name, baseline in tuned_baselines(split, K, names_for(split.train.num_items), "ndcg_likes"):
        results[name] = [evaluate_scorer(baseline.scorer, split, K)]
    prefix = list_prefix(dataset, holdout)
    for path in sorted(lists.glob(f"{prefix}-*.npz")):
        users, topk = read_top_k(path)
        name = path.stem.removeprefix(f"{prefix}-")
        results[name] = [evaluate(topk, users, split.test, K)]
    for name, settings in ((BLIND, ("graph.feedback_nodes=false",)), (NAME, ())):
        results[name] = []
        for seed in range(1, seeds + 1):
            chosen = (f"training.seed={seed}", "training.threads=1", *settings)
            config = load_config(NAME, settings=chosen).updated({"split": holdout.settings}, "")
            recommender = EmoRec(config=config).fit(split, progress=False)
            results[name].append(evaluate_scorer(recommender.scorer(), split, K))
            click.echo(f"{name}, seed {seed}: {_short(results[name][-1])}")
    for name, found in results.items():
        click.echo(f"{name}: {_short(found[0])}")
    file = dataset if holdout == Holdout() else f"{dataset}-{holdout.name}"
    target = HERE / "results" / f"graph-alone-{file}.md"
    peers = comparison_markdown(results, K, NAME, no_peers=("Random",))
    text = (
        f"# The feedback graph alone on {dataset}\n\nHeld out: {holdout}. Full ranking at {K}; "
        f"{seeds} seeds of {NAME}, which has its defaults; the others are tuned on validation, by "
        f"NDCG of likes. Made by `python benchmarks/graph_alone.py --dataset {dataset} --holdout "
        f"{holdout.option} --data-dir DATA`.\n\n{peers}\n"
    )
    write_text(target, text)
    click.echo(f"wrote {target}")


def _short(found: Evaluation) -> str:
    summary = found.summary()
    names = ("recall_likes", "ndcg_likes", "recall_dislikes", "disliked_share")
    return "  ".join(f"{name} {summary[name]:.4f}" for name in names)


if __name__ == "__main__":
    main()
