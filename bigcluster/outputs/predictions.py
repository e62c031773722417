"""The CSV of `predict`: the columns of labels.csv, and `novelty`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO

from bigcluster.catalog import FileRecord, Listing, to_csv_path
from bigcluster.outputs.tables import LABEL_COLUMNS, passed_cells, passed_columns, write_rows


@dataclass(frozen=True)
class Predicted:
    """Where one new image belongs. Distances are Euclidean, in score units."""

    label: int
    distance: float
    runner_up: int | None
    """None where there is one cluster only; the margin is then infinite, and both cells stay blank."""
    margin: float
    novelty: float
    """How unusual it is: above 1, more so than 95 % of the model's own images. See kernels.novelty."""


def write_predictions(file: IO[str], listing: Listing, rows: Iterable[tuple[FileRecord, Predicted | None]]) -> None:
    """One row per listed file in listing order; a failed one has the label -1. `file` is empty: nothing is linked."""
    columns = (*LABEL_COLUMNS, "novelty")
    shown = (
        _cells(name, record, found) + cells
        for name, (record, found), cells in zip(listing.names, rows, passed_cells(listing), strict=True)
    )
    write_rows(file, (*columns, *passed_columns(listing, columns)), shown)


def _cells(name: str, record: FileRecord, found: Predicted | None) -> list[str]:
    if found is None:
        return [to_csv_path(name), "-1", "", "", "", record.status, "", ""]
    cells = [to_csv_path(name), str(found.label), f"{found.distance:.6g}"]
    cells += ["", ""] if found.runner_up is None else [str(found.runner_up), f"{found.margin:.6g}"]
    return [*cells, record.status, "", f"{found.novelty:.6g}"]
