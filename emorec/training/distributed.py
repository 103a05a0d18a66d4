"""What several processes share in training: gradients are summed.

Every process encodes the rows of its own users, see `emorec.training.shares`. A loss is divided by
the targets of the whole batch, so that the sum of the processes' gradients is the gradient of one
process with all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emorec.config import ConfigError
from emorec.nn.model import Recommender
from emorec.processes import World
from emorec.training.sharding import ItemShards

__all__ = ["clip_gradients", "require_shareable", "sum_gradients"]


def require_shareable(model: Recommender, world: World) -> None:
    """Checks that several processes can train a model.

    Raises:
        ConfigError: If a user's vector depends on other users' events, which other processes have.
    """
    encoder = model.graph_encoder
    if world.size > 1 and encoder is not None and encoder.needs_full_graph:
        raise ConfigError(
            f"graph.layers is {len(encoder.layers)}, with which a user's vector depends on other "
            "users' events; several processes train models with graph.layers of at most 2, as all "
            "presets have"
        )


def sum_gradients(
    world: World,
    parameters: Sequence[nn.Parameter],
    loss: Tensor,
    shards: ItemShards | None = None,
) -> Tensor:
    """Replaces gradients by their sums over all processes; the sum of the losses.

    All of it is one buffer, summed once. A parameter without a gradient in any process keeps none:
    the optimizer must not touch it. Gradients of divided items are whole already.

    Args:
        world: The processes.
        parameters: What is trained, in the same order everywhere.
        loss: This process's part of the loss, a scalar.
        shards: Item vectors that are divided over the processes, or None.
    """
    if world.size == 1:
        return loss.detach()
    if shards is not None:
        parameters = [each for each in parameters if not shards.owns(each)]
    grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    about = [float(each.grad is not None) for each in parameters]
    last = loss.detach().to(grads[0].dtype)
    flat = torch.cat([*(each.flatten() for each in grads), last.new_tensor(about), last[None]])
    *sums, have, total = world.sum(flat).split([*(each.numel() for each in grads), len(about), 1])
    for parameter, own, count in zip(parameters, sums, have.tolist(), strict=True):
        parameter.grad = own.view_as(parameter) if count else None
    return total


def clip_gradients(
    parameters: Sequence[nn.Parameter], largest: float, shards: ItemShards | None = None
) -> None:
    """Scales gradients down to a norm of at most ``largest``, that of divided items included."""
    if shards is None:
        nn.utils.clip_grad_norm_(parameters, largest)
        return
    grads: tuple[list[Tensor], list[Tensor]] = [], []
    for parameter in parameters:
        if parameter.grad is not None:
            grads[shards.owns(parameter)].append(parameter.grad)
    shared, own = (nn.utils.get_total_norm(each) for each in grads)
    norm = (shared.square() + shards.world.sum(own.square())).sqrt()
    nn.utils.clip_grads_with_norm_(parameters, largest, norm)
