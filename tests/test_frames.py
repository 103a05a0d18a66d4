"""EmoRec.fit takes tables of other libraries, by the Arrow C stream interface."""

from __future__ import annotations

import pandas as pd
import pytest

from emorec import EmoRec
from emorec.data.datasets import load_dataset
from emorec.data.readers import read_interactions
from tests.small import small_config

arrow = pytest.importorskip("pyarrow", reason="reading tables of other libraries needs pyarrow")


@pytest.fixture(scope="module")
def frame():
    """The first users of the embedded data set."""
    log = load_dataset("synthetic")
    log = log.select(log.user < 40)
    return pd.DataFrame(
        {
            "user_id": log.users.lookup(log.user),
            "item_id": log.items.lookup(log.item),
            "rating": 5 - log.feedback.astype("int64"),
            "timestamp": log.time,
        }
    )


def of_arrow(frame):
    return arrow.Table.from_pandas(frame)


def of_arrow_batches(frame):
    """A stream that can be read once only."""
    table = arrow.Table.from_pandas(frame)
    return arrow.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=100))


def of_polars(frame):
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.DataFrame({name: frame[name].to_list() for name in frame})


@pytest.mark.parametrize("table_of", [of_arrow, of_arrow_batches, of_polars])
def test_lists_are_those_of_the_same_frame(frame, table_of):
    config, users = small_config("training.epochs=1"), list(frame["user_id"].unique()[:3])
    expected = EmoRec(config=config).fit(frame, progress=False).recommend(users, k=4)
    fitted = EmoRec(config=config).fit(table_of(frame), progress=False)
    pd.testing.assert_frame_equal(fitted.recommend(users, k=4), expected)


@pytest.mark.parametrize("table_of", [of_arrow, of_arrow_batches, of_polars])
def test_dates_and_numbers_as_ids(frame, table_of):
    dates = pd.to_datetime(frame["timestamp"], unit="s", utc=True)
    numbers = frame["item_id"].astype("category").cat.codes.astype("int64")
    table = table_of(frame.assign(timestamp=dates, item_id=numbers))
    log, _ = read_interactions(table)
    assert log.time_unit == "s" and (log.time == frame["timestamp"]).all()
    assert log.items.lookup(log.item) == numbers.tolist()
    assert log.users.lookup(log.user) == frame["user_id"].tolist()


def test_categories_of_arrow(frame):
    """Text stored once per value, as parquet files and polars have it."""
    table = of_arrow(frame)
    encoded = table.set_column(0, "user_id", table.column("user_id").dictionary_encode())
    log, _ = read_interactions(encoded)
    assert log.users.lookup(log.user) == frame["user_id"].tolist()


def test_an_array_is_no_table():
    with pytest.raises((TypeError, ValueError)):
        EmoRec(config=small_config()).fit(arrow.chunked_array([[1, 2]]), progress=False)
