"""A few rows in the published format of Yambda."""

from pathlib import Path

import pandas as pd

# Types as published: unsigned whole numbers, no ratio or length where nothing was played.
TYPES = {
    "uid": "uint32",
    "timestamp": "uint32",
    "item_id": "uint32",
    "is_organic": "uint8",
    "played_ratio_pct": "UInt16",
    "track_length_seconds": "UInt32",
}
ROWS = [
    (100, 0, 7, 1, 50, 200, "listen"),
    (100, 5, 8, 0, 49, 200, "listen"),
    (100, 5, 7, 0, None, None, "like"),
    (100, 25_999_995, 9, 0, None, None, "dislike"),
    (200, 10, 9, 1, 159, 200, "listen"),
    (200, 15, 7, 1, None, None, "unlike"),
    (200, 20, 9, 1, None, None, "undislike"),
    (200, 26_000_000, 7, 1, 0, 200, "listen"),
]
# User, item, kind of feedback and time, by the shipped rules.
EXPECTED = [
    (100, 7, 1, 0),
    (100, 8, 2, 5),
    (100, 7, 0, 5),
    (100, 9, 3, 25_999_995),
    (200, 9, 1, 10),
    (200, 7, 2, 26_000_000),
]


def yambda_frame() -> pd.DataFrame:
    """The file of all events."""
    frame = pd.DataFrame(ROWS, columns=[*TYPES, "event_type"])
    return frame.astype(TYPES).astype({"event_type": "category"})


def write_yambda(folder: Path, types: tuple[str, ...]) -> None:
    """Writes the files of one type of event each, of the given types."""
    folder.mkdir(parents=True, exist_ok=True)
    for event_type, part in yambda_frame().groupby("event_type", observed=True):
        columns = list(TYPES)[: 6 if event_type == "listen" else 4]
        if event_type in types:
            part[columns].to_parquet(folder / f"{event_type}s.parquet", index=False)
