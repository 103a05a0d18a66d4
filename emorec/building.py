"""Builds a model from its configuration, and checks backend, device and memory."""

from __future__ import annotations

from typing import Literal

import torch

from emorec.config import Config, ConfigError
from emorec.data.graph import import_dgl, schema
from emorec.memory import machine_memory
from emorec.nn.feedback_paths import FeedbackPaths
from emorec.nn.feedback_sum import FeedbackSum
from emorec.nn.graph_encoder import GraphEncoder
from emorec.nn.model import Recommender
from emorec.nn.polarity import ItemPolarity, NextPolarity
from emorec.nn.sequence_encoder import SequenceEncoder

__all__ = ["backend_for", "build_model", "check_device", "check_memory"]


def build_model(config: Config, num_users: int, num_items: int) -> Recommender:
    """Makes an untrained model; the seed decides its parameters."""
    model, graph, sequence = config.model, config.graph, config.sequence
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        graph_encoder = sequence_encoder = feedback_sum = feedback_paths = None
        if graph.conv == "sum":
            feedback_sum = FeedbackSum(
                schema(graph.feedback_nodes), num_items, graph.size, backend=backend_for(config)
            )
        elif graph.conv != "none":
            graph_encoder = GraphEncoder(
                schema(graph.feedback_nodes),
                num_users if graph.user_embeddings else None,
                model.embedding_size,
                conv=graph.conv,
                num_layers=graph.layers,
                num_heads=graph.heads,
                signed=graph.signed,
                half_life=graph.half_life,
                backend=backend_for(config),
            )
        if graph.paths:
            feedback_paths = FeedbackPaths(num_items, graph.paths)
        if sequence.layers:
            sequence_encoder = SequenceEncoder(
                model.embedding_size,
                sequence.max_length,
                num_layers=sequence.layers,
                num_heads=sequence.heads,
                window=sequence.window,
                decay=sequence.decay,
                projections=sequence.projections,
                feedback_input=sequence.feedback_input,
                request_time=sequence.request_time,
                dropout=max(0.0, sequence.dropout),  # below 0, training chooses it
                attention=sequence.attention,
            )
        return Recommender(
            num_items,
            model.embedding_size,
            graph_encoder,
            sequence_encoder,
            _polarity_head(config, num_items),
            graph_informs=graph.informs,
            aversion=model.aversion,
            feedback_sum=feedback_sum,
            feedback_paths=feedback_paths,
            feedback_nodes=graph.feedback_nodes,
        )


def _polarity_head(config: Config, num_items: int) -> NextPolarity | ItemPolarity | None:
    size, kind = config.model.embedding_size, config.model.polarity
    if kind == "none":
        return None
    return NextPolarity(size) if kind == "next" else ItemPolarity(num_items, size)


def backend_for(config: Config) -> Literal["dgl", "torch"]:
    """The library for sums over edges; "auto" is DGL where it can be imported, else PyTorch.

    Raises:
        ImportError: If ``model.backend`` is "dgl" and DGL cannot be imported.
    """
    if config.model.backend == "torch":
        return "torch"
    try:
        import_dgl()
    except ImportError:
        if config.model.backend == "dgl":
            raise
        return "torch"
    return "dgl"


def check_memory(config: Config, num_users: int, num_items: int, copies: int = 1) -> None:
    """Checks that a model's parameters alone fit into memory.

    Args:
        config: The run.
        num_users: Size of the model.
        num_items: Size of the model.
        copies: How many times they are held: training adds gradients and two moments.

    Raises:
        ConfigError: If they are larger than the machine's memory.
    """
    needed = 4 * copies * _least_parameters(config, num_users, num_items)
    there_is = machine_memory()
    if there_is is not None and needed > there_is:
        raise ConfigError(
            f"the model's parameters take at least {needed / 2**30:,.1f} GiB, more than the "
            f"{there_is / 2**30:,.1f} GiB of this machine; lower model.embedding_size "
            f"(now {config.model.embedding_size}), graph.size, graph.paths, sequence.max_length or "
            "layers"
        )


def _least_parameters(config: Config, num_users: int, num_items: int) -> int:
    """The tables and the square matrices of a model: less than it has, but most of it.

    Counted by formula: a model on PyTorch's meta device would import its compiler, which takes
    longer than everything else in a command that recommends.
    """
    size, graph, layers = config.model.embedding_size, config.graph, config.sequence.layers
    tables = 0 if graph.conv in ("none", "sum") and not layers else num_items
    of_graph = num_items * 2 * graph.paths
    if graph.conv == "sum":
        of_graph += 2 * num_items * graph.size
    elif graph.conv != "none":
        tables += num_users if graph.user_embeddings else 0
        layers += graph.layers
    return size * tables + size**2 * layers + of_graph


def check_device(config: Config) -> None:
    """Checks that the configured device is available.

    Raises:
        ConfigError: If ``training.device`` names no device, or none that is here.
    """
    name = config.training.device
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"training.device {name!r} is not a device; use 'cpu' or 'cuda'"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"training.device is {name!r}, must be 'cpu', 'cuda' or 'cuda:1'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count() or "no"
        raise ConfigError(
            f"training.device is {name!r}, but PyTorch finds {found} CUDA device here; "
            "--device cpu works everywhere"
        )
