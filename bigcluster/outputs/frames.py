"""The tables of OUT as pandas.DataFrames. Columns that are numbers are named; all others are text, and stay as it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NUMBERS_OF_LABELS = ("label", "distance", "runner_up", "margin")
NUMBERS_OF_PREDICTIONS = (*NUMBERS_OF_LABELS, "novelty")
NUMBERS_OF_IMAGES = ("id", "bytes", "mtime_ns", "width", "height")


def read_table(path: Path, numbers: tuple[str, ...] | None = None) -> pd.DataFrame:
    """A CSV of ours. Of its text nothing is taken for a number or for missing: `00012` and `NA` stay.

    numbers : the columns that hold numbers, where a blank cell is NaN; None for a table of numbers.
    """
    import pandas as pd

    if numbers is None:
        return pd.read_csv(path)
    columns = pd.read_csv(path, nrows=0, dtype=str).columns
    return pd.read_csv(
        path,
        dtype={name: str for name in columns if name not in numbers},
        keep_default_na=False,
        na_values=dict.fromkeys(numbers, ""),
    )
