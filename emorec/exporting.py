"""Exports of a trained model for other programs: vectors, an index, a program that scores.

items.parquet, users.parquet   ids and vectors; or items.npz, users.npz
items.faiss                    an index of the items' vectors for the library faiss, which takes a
                               user's vector with a 0 at its end
scorer.pt2                     the whole ranking of one user, a program of torch.export
items.json                     the items' own ids, in the order of the scorer's output
about.json                     what the files are, and what they were made from
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from emorec.data.vocabulary import Vocabulary
from emorec.inference.export import exported, item_vectors, user_vectors
from emorec.inference.ranking import ModelScorer
from emorec.recommender import EmoRec
from emorec.storage.files import FileError, to_json, write_text
from emorec.storage.folders import read_manifest, replace_files

__all__ = ["AnnQuality", "export"]

_FILES = (
    *("items.parquet", "users.parquet", "items.npz", "users.npz"),
    *("items.faiss", "scorer.pt2", "items.json", "about.json"),
)
_BLOCK = 10_000  # users whose vectors are in memory at a time
_ASKED = 1_000  # users that the index is tried on
_NEIGHBOURS, _EFFORT = 32, 128  # of the index: links per item, items looked at per search


@dataclass(frozen=True)
class AnnQuality:
    """An index beside exact search by the same inner product.

    Attributes:
        k: Items searched per user.
        users: Users asked for.
        recall: Share of the exact search's items that the index finds.
        exact_ms: Milliseconds per user of exact search, on the threads of PyTorch.
        index_ms: Milliseconds per user of the index, on the threads of faiss.
    """

    k: int
    users: int
    recall: float
    exact_ms: float
    index_ms: float


def export(
    recommender: EmoRec,
    folder: Path,
    *,
    vectors: Literal["parquet", "npz"] = "parquet",
    index: bool = False,
    scorer: bool = False,
    k: int = 10,
) -> AnnQuality | None:
    """Writes a model in forms that other programs use; all files are written, or none.

    The inner product of a user's vector and an item's is the sum of the ranking's terms next item
    and graph, see `emorec.inference.export`. The other terms (paths, liked, dislikes) have no such
    vectors: search more items than needed by the product, and score those with
    `EmoRec.score`.

    Args:
        recommender: A fitted recommender; users' vectors depend on its whole log.
        folder: The folder; made if need be. Earlier exports in it are replaced.
        vectors: Format of the vectors. In npz files ids are text unless all are numbers.
        index: Whether to write an index of the items for faiss, and to try it.
        scorer: Whether to write the whole ranking as a program of `torch.export`.
        k: Items per user that the index is tried with.

    Returns:
        How good the index is; None without one.

    Raises:
        ImportError: If pyarrow or faiss is needed and not installed.
        ValueError: If the model has no vectors, or cannot be exported as a program.
        FileError: If the folder holds other files of the same names.
    """
    model, log = recommender.model, recommender.split.log
    if folder.is_dir() and not (folder / "about.json").exists():
        taken = [name for name in _FILES if (folder / name).exists()]
        if taken and "about.json" not in (read_manifest(folder) or {}):
            raise FileError(
                f"{folder}: {taken[0]} is there and not of an export; give another folder"
            )
    faiss = _library("faiss", "faiss-cpu", "ann") if index else None
    if vectors == "parquet":
        _library("pyarrow", "pyarrow", "parquet")
    items = item_vectors(model).numpy()
    program = exported(model) if scorer else None
    known = np.unique(log.user)
    state = ModelScorer(model, log, recommender.config.training.device)
    quality = None
    with replace_files(folder, _FILES) as written:
        _write(
            written / f"items.{vectors}", "item", log.items, iter([(np.arange(len(items)), items)])
        )
        _write(written / f"users.{vectors}", "user", log.users, _blocks(recommender, state, known))
        if faiss is not None:
            found = _indexed(faiss, items)
            faiss.write_index(found, str(written / "items.faiss"))
            rng = np.random.default_rng(0)
            asked = np.sort(rng.choice(known, min(_ASKED, len(known)), replace=False))
            queries = user_vectors(model, state, asked).numpy()
            quality = _tried(found, items, queries, min(k, len(items)))
        if program is not None:
            torch.export.save(program, str(written / "scorer.pt2"))
        write_text(written / "items.json", json.dumps(log.items.ids, ensure_ascii=False))
        write_text(
            written / "about.json",
            to_json(
                {
                    "preset": recommender.config.preset,
                    "items": len(items),
                    "users": len(known),
                    "width": items.shape[1],
                    "inner_product": "next item + graph",
                    "aversion": model.aversion,
                    "newest_event": int(log.time.max()),
                    "time_unit": log.time_unit,
                    "index_query": "the user's vector, then 0",
                    "index": None if quality is None else asdict(quality),
                },
                indent=2,
            ),
        )
    return quality


def _blocks(
    recommender: EmoRec, state: ModelScorer, users: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices of users, and their vectors, some at a time."""
    for start in range(0, len(users), _BLOCK):
        chunk = users[start : start + _BLOCK]
        yield chunk, user_vectors(recommender.model, state, chunk).numpy()


def _write(
    path: Path, name: str, ids: Vocabulary, blocks: Iterator[tuple[np.ndarray, np.ndarray]]
) -> None:
    """Writes ids and vectors, in the format of the suffix."""
    are_numbers = all(type(each) is int for each in ids.ids)
    if path.suffix == ".npz":
        index, vectors = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        column: np.ndarray = np.array(ids.lookup(index), dtype=np.int64 if are_numbers else str)
        np.savez(path, **{name: column, "vector": vectors})  # type: ignore[arg-type]
        return
    arrow, parquet = (importlib.import_module(each) for each in ("pyarrow", "pyarrow.parquet"))
    writer = None
    try:
        for index, vectors in blocks:
            width = vectors.shape[1]
            keys = ids.lookup(index)
            table = arrow.table(
                {
                    name: arrow.array(keys if are_numbers else [str(each) for each in keys]),
                    "vector": arrow.FixedSizeListArray.from_arrays(
                        arrow.array(vectors.reshape(-1)), width
                    ),
                }
            )
            if writer is None:
                writer = parquet.ParquetWriter(str(path), table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _indexed(faiss: Any, items: np.ndarray) -> Any:
    """A graph of items to search through.

    Such graphs are good at distances, not at inner products. With one more component, all items
    have one length, and those with the largest inner product are the nearest:

        item' = [item, sqrt(m^2 - |item|^2)]        user' = [user, 0]        m = max |item|

    After Y. Bachrach et al., Speeding Up the Xbox Recommender System, RecSys 2014. On Amazon
    Beauty it takes recall among ten items from 57 % to 96 %.
    """
    squares = (items.astype(np.float64) ** 2).sum(axis=1)
    rest = np.sqrt(squares.max() - squares)[:, None].astype(np.float32)
    index = faiss.IndexHNSWFlat(items.shape[1] + 1, _NEIGHBOURS)
    index.hnsw.efSearch = _EFFORT
    index.add(np.concatenate([items, rest], axis=1))
    return index


def _tried(index: Any, items: np.ndarray, queries: np.ndarray, k: int) -> AnnQuality:
    """Searches by an index and exactly."""
    started = time.perf_counter()
    exact = torch.from_numpy(queries) @ torch.from_numpy(items).T
    best = exact.topk(k).indices.numpy()
    middle = time.perf_counter()
    _, found = index.search(np.concatenate([queries, np.zeros_like(queries[:, :1])], axis=1), k)
    done = time.perf_counter()
    hits = (best[:, :, None] == found[:, None, :]).any(2).mean()
    each = 1000 / len(queries)
    return AnnQuality(
        k, len(queries), float(hits), (middle - started) * each, (done - middle) * each
    )


def _library(module: str, package: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'this needs {package}: pip install "emorec[{extra}]"') from error
