"""emorec export: vectors, an index, and a program that scores."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from emorec.cli.common import RUN, how_to_run, load_run, quick_imports, user_errors

__all__ = ["export"]


@click.command(context_settings={"max_content_width": 100})
@click.argument("run", type=RUN)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write into; made if need be. An earlier export there is replaced.",
)
@click.option(
    "--vectors",
    type=click.Choice(["parquet", "npz"]),
    default="parquet",
    show_default=True,
    help="Format of the vectors of items and users.",
)
@click.option(
    "--ann",
    is_flag=True,
    help="Also write an index for approximate nearest neighbours, items.faiss, and show its recall "
    'against exact search. Needs faiss: pip install "emorec[ann]".',
)
@click.option(
    "--scorer",
    is_flag=True,
    help="Also write scorer.pt2, the whole ranking of one user as a program of torch.export.",
)
@click.option(
    "-k",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Items per user that the index is tried with.",
)
@how_to_run
@user_errors
def export(
    run: Path,
    output: Path,
    vectors: Literal["parquet", "npz"],
    ann: bool,
    scorer: bool,
    k: int,
    backend: str | None,
    device: str | None,
    aversion: float | None,
) -> None:
    """Export a trained RUN for other programs: vectors of items and users, an index, a scorer.

    The inner product of a user's vector and an item's is the sum of the first terms of the ranking,
    next item and graph, so a vector database finds candidates. emorec score ranks them by all
    terms; scorer.pt2 does so without EmoRec. Lists for everybody: emorec-recommend --all-users.

    \b
    Examples:
      emorec export RUN --output vectors
      emorec export RUN --output vectors --ann -k 100
      emorec export RUN --output program --scorer
    """  # noqa: D301
    with quick_imports():
        from emorec.exporting import export as write

    recommender = load_run(run, backend, aversion, device)
    quality = write(recommender, output, vectors=vectors, index=ann, scorer=scorer, k=k)
    for path in sorted(output.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            click.echo(f"{path}  {path.stat().st_size:,} bytes")
    if quality is not None:
        click.echo(
            f"\nThe index finds {quality.recall:.1%} of the {quality.k} items of exact search by "
            f"inner product, for {quality.users:,} users: {quality.index_ms:.3f} ms per user, "
            f"exact search {quality.exact_ms:.3f} ms."
        )
