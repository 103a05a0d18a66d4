"""Vectors of items that are divided over processes: each one trains some rows of every table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from emorec.config import ConfigError
from emorec.nn.model import ItemRows, Recommender
from emorec.ops.rows import take_rows
from emorec.processes import World

__all__ = ["ItemShards"]


class ItemShards:
    """The rows of a model's tables of items that this process has.

    The tables are the item embeddings, and the feedback sum's vectors and biases. Process ``r`` of
    ``n`` has the items from ``r I / n`` to ``(r + 1) I / n``. From then on the model's parameters
    are these rows, and so are their gradients and the optimizer's moments.

    Args:
        model: The model; its tables are cut.
        num_items: Size of the catalogue, ``I``.
        world: The processes.

    Attributes:
        start: First item of this process.
        stop: One past the last.

    Raises:
        ConfigError: If there is one process, or more than there are items.
    """

    def __init__(self, model: Recommender, num_items: int, world: World) -> None:
        if world.size == 1:
            raise ConfigError(
                "training.shard_items is true, which needs several processes (torchrun), got one"
            )
        if world.size > num_items:
            raise ConfigError(
                f"training.shard_items is true, which needs an item for each process, got "
                f"{num_items} items and {world.size} processes"
            )
        self.world, self._num_items = world, num_items
        self.start, self.stop = (num_items * r // world.size for r in (world.rank, world.rank + 1))
        tables = _tables(model)
        self._names = {name for name, each in model.named_parameters() if id(each) in tables}
        self._tables = tables
        self._cut()

    def owns(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter is divided."""
        return id(parameter) in self._tables

    def has(self, items: Any) -> Any:
        """Which items, a tensor or an array, are this process's, bool."""
        return (items >= self.start) & (items < self.stop)

    def rows(self, table: Tensor, items: Tensor) -> ItemRows:
        """Rows of a divided table, from the processes that have them, differentiable.

        Args:
            table: This process's rows.
            items: Items that this process needs, integers of any shape; below 0: none.
        """
        own = items[items >= 0].unique().to(torch.int32)
        wanted = torch.cat(self.world.gather(own)).unique().long()  # of all processes
        if not len(wanted):
            wanted = wanted.new_zeros(1)  # [CLS] alone: a row that does not count
        mine = self.has(wanted).nonzero()[:, 0]
        found = take_rows(table, wanted[mine] - self.start)
        part = table.new_zeros(len(wanted), table.shape[1]).index_copy(0, mine, found)
        place = torch.searchsorted(wanted, items.long().clamp(min=0))
        return ItemRows(wanted, self.world.total(part), torch.where(items >= 0, place, -1))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within the context, every process's model has all rows."""
        self.join()
        try:
            yield
        finally:
            self._cut()

    def join(self) -> None:
        """Gives the model of every process all rows."""
        for table in self._tables.values():
            table.data = self._joined(table.data)

    def gathered(self, tensors: dict[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
        """The tensors of a checkpoint with all rows, in the first process; one after the other."""
        names = self._names_in_checkpoint(optimizer)
        found = {}
        for name in sorted(tensors):  # in one order, which that of moments is not
            whole = self._joined(tensors[name]) if name in names else tensors[name]
            if self.world.is_first:
                found[name] = whole
        return found

    def own(self, tensors: dict[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
        """The rows of this process of a checkpoint's tensors."""
        names = self._names_in_checkpoint(optimizer)
        return {
            name: tensor[self.start : self.stop]
            if name in names and len(tensor) == self._num_items
            else tensor
            for name, tensor in tensors.items()
        }

    def _names_in_checkpoint(self, optimizer: Optimizer) -> set[str]:
        names = {f"{part}.{name}" for part in ("model", "best", "average") for name in self._names}
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        return names | {
            f"optimizer.{index}.{moment}"
            for index, each in enumerate(parameters)
            for moment in ("exp_avg", "exp_avg_sq")
            if self.owns(each)
        }

    def _joined(self, rows: Tensor) -> Tensor:
        return torch.cat(self.world.gather(rows.contiguous()))

    def _cut(self) -> None:
        for table in self._tables.values():
            table.data = table.data[self.start : self.stop].clone()


def _tables(model: Recommender) -> dict[int, nn.Parameter]:
    found: list[Any] = []
    if model.item_embedding is not None:
        found.append(model.item_embedding.weight)
    if model.feedback_sum is not None:
        summed = model.feedback_sum
        found += [summed.source.weight, summed.target.weight, summed.bias]
    return {id(each): each for each in found}
