"""Tensors in files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from emorec.storage.files import FileError, atomic_path, one_line, require_regular_file

__all__ = ["load_tensors", "save_tensors"]


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Writes tensors and a JSON-able description into one safetensors file, with a digest."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    description = json.dumps(about)
    metadata = {"about": description, "sha256": _sha256(whole, description)}
    with atomic_path(path) as temporary:
        try:
            save_file(whole, temporary, metadata=metadata)
        except SafetensorError as error:  # of a full disk, among others
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote; the digest is checked where there is one.

    Raises:
        FileError: If the file is missing, cut short, changed or something else.
    """
    if not path.exists():
        raise FileError(f"{path}: no such file")
    require_regular_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
        about = json.loads(metadata["about"])
        if not isinstance(about, dict):
            raise TypeError("the description is not a JSON object")
    except (
        SafetensorError, KeyError, ValueError, TypeError, RuntimeError, OverflowError
    ) as error:  # fmt: skip
        # RuntimeError: also json's for deep nesting, and torch's for a shape that cannot be
        raise FileError(
            f"{path}: is damaged or was not written by emorec ({one_line(error)})"
        ) from error
    if "sha256" in metadata and metadata["sha256"] != _sha256(tensors, metadata["about"]):
        raise FileError(f"{path}: is damaged: its content does not have the SHA-256 that it states")
    return tensors, about


def _sha256(tensors: dict[str, Tensor], description: str) -> str:
    """A digest of names, types, shapes and values, and of the description."""
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.contiguous().as_strided((tensor.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
