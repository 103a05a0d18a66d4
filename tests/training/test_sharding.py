"""Which rows a process has; what they become together is in test_distributed.py."""

from __future__ import annotations

import pytest
import torch

from emorec.building import build_model
from emorec.config import ConfigError
from emorec.processes import ALONE, World
from emorec.training.sharding import ItemShards
from tests.small import small_config


@pytest.mark.parametrize(
    ("preset", "tables"),
    [
        ("emo-sage-thp", {"item_embedding.weight"}),
        (
            "emorec",
            {"item_embedding.weight"}
            | {f"feedback_sum.{name}" for name in ("source.weight", "target.weight", "bias")},
        ),
    ],
)
@pytest.mark.parametrize(("rank", "rows"), [(0, slice(0, 3)), (1, slice(3, 7))])
def test_each_process_has_its_rows_of_the_tables_of_the_model(preset, tables, rank, rows):
    model = build_model(small_config(preset=preset), num_users=4, num_items=7)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    shards = ItemShards(model, 7, World(rank, 2))
    assert slice(shards.start, shards.stop) == rows
    for name, each in model.named_parameters():
        assert shards.owns(each) == (name in tables)
        expected = before[name][rows] if name in tables else before[name]
        assert torch.equal(each, expected), name


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (ALONE, "which needs several processes .torchrun., got one"),
        (World(0, 8), "needs an item for each process, got 7 items and 8 processes"),
    ],
)
def test_what_cannot_be_divided(world, message):
    model = build_model(small_config(preset="emorec"), num_users=4, num_items=7)
    with pytest.raises(ConfigError, match=f"^training.shard_items is true, {message}|{message}$"):
        ItemShards(model, 7, world)
