"""The CSV files of a run: labels.csv, images.csv, classes.csv, variance.csv, memory.csv. RFC 4180, UTF-8, streamed.

sweep.csv and sweep.png: elbow, silhouettes and stability over k. resolutions.csv: groups by resolution.

The CSV of `predict`: the columns of labels.csv, and `novelty`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import FileRecord, Listing, guard_cell, to_csv_path
from bigcluster.catalog.ledger import OK, Ledger
from bigcluster.files.durable import replacing
from bigcluster.outdir.results import ResultFiles
from bigcluster.planning.footprint import RECORDS_AT_ONCE
from bigcluster.runtime.sampler import Reading
from bigcluster.runtime.workers_memory import ProcessName
from bigcluster.stages.classes import ClusterClasses, ImageClasses
from bigcluster.stages.membership import Membership
from bigcluster.store.row_source import spans

_NO_LABEL = ("-1", "", "", "")
"""What labels.csv says of a file without a picture, from `label` to `margin`."""
LABEL_COLUMNS = ("path", "label", "distance", "runner_up", "margin", "status", "file")
CLUSTER_NAME = "cluster_name"
"""The column of labels.csv with the suggested name of the cluster, where images have classes."""
CLASS_COLUMNS = ("path", "rank", "class", "probability")
VARIANCE_COLUMNS = ("n_components", "cumulative_share")
IMAGE_COLUMNS = ("id", "path", "bytes", "mtime_ns", "width", "height", "digest", "status", "reason")


Target = Path | AbstractContextManager[IO[str]]
"""Where a table goes: a path, which is replaced whole, or what opens a text file and puts it in place at the end."""


def write_csv(target: Target, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Written beside and put in place whole."""
    with replacing(target) if isinstance(target, Path) else target as file:
        write_rows(file, header, rows)


def write_rows(file: IO[str], header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """The header and the rows as RFC 4180 wants them."""
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(rows)


def write_labels(
    target: Target,
    listing: Listing,
    ledger: Ledger,
    membership: Membership,
    files: Iterable[str],
    classes: ClusterClasses | None = None,
) -> None:
    """labels.csv: one row per listed file in listing order. `files` names each row's entry under clusters/, or ''.

    classes : of the clusters; where they are given, a column has the suggested name of each row's cluster.
    """
    columns = LABEL_COLUMNS if classes is None else (*LABEL_COLUMNS, CLUSTER_NAME)
    header = [*columns, *passed_columns(listing, columns)]
    write_csv(target, header, _label_rows(listing, ledger, membership, files, classes))


def passed_columns(listing: Listing, taken: Iterable[str] = LABEL_COLUMNS) -> list[str]:
    """The names under which a manifest's other columns pass through."""
    return list(_free_names(listing.manifest.columns if listing.manifest else (), taken))


def passed_cells(listing: Listing) -> Iterator[list[str]]:
    """Per listed row, the cells of a manifest's other columns; text that a spreadsheet would run is guarded."""
    rows: Iterable[tuple[str, ...]] = (
        listing.manifest.passed_through() if listing.manifest else repeat((), len(listing))
    )
    return ([guard_cell(cell) for cell in cells] for cells in rows)


def _free_names(columns: Iterable[str], used: Iterable[str]) -> Iterator[str]:
    taken, last_names = set(used), dict[str, str]()
    for column in columns:
        name = last_names.get(column, column)  # of equal columns each goes on where the one before it found a free name
        while name in taken:
            name = f"in_{name}"
        taken.add(name)
        last_names[column] = name
        yield guard_cell(name)


def _label_rows(
    listing: Listing,
    ledger: Ledger,
    membership: Membership,
    files: Iterable[str],
    classes: ClusterClasses | None,
) -> Iterator[tuple[str, ...]]:
    labelled, paths = label_cells(ledger, membership), map(to_csv_path, listing.names)
    for path, label, file, cells in zip(paths, labelled, map(to_csv_path, files), passed_cells(listing), strict=True):
        named = () if classes is None else (cluster_name_cell(classes, label[0]),)
        yield (path, *label, file, *named, *cells)


def cluster_name_cell(classes: ClusterClasses, label: str) -> str:
    """What labels.csv says in the column CLUSTER_NAME. label : the cell of the column `label`."""
    return "" if label == "-1" else guard_cell(classes.name(int(label)))


def label_cells(ledger: Ledger, membership: Membership) -> Iterator[tuple[str, ...]]:
    """What labels.csv says of every listed file from `label` to `status`.

    Raises ValueError where these are not the labels of the good rows of the ledger.
    """
    if len(membership.labels) != ledger.counts()[OK]:
        raise ValueError("there are not as many labels as good images")
    good = 0
    for start, stop in spans(len(ledger), RECORDS_AT_ONCE):
        statuses = ledger.facts(start, stop).status
        n_good = statuses.count(OK)
        labelled = zip(*_membership_columns(membership, slice(good, good + n_good)), strict=True)
        good += n_good
        for status in statuses:
            yield (*next(labelled), OK) if status == OK else (*_NO_LABEL, status)


def _membership_columns(membership: Membership, rows: slice) -> list[list[str]]:
    """What labels.csv says of some good rows, from `label` to `margin`."""
    columns = [list(map(str, membership.labels[rows].tolist())), _shown(membership.distance[rows])]
    if membership.runner_up is None or membership.margin is None:
        return [*columns, [""] * len(columns[0]), [""] * len(columns[0])]
    second = ["" if number < 0 else str(number) for number in membership.runner_up[rows].tolist()]
    return [*columns, second, _shown(membership.margin[rows])]


def _shown(numbers: NDArray[np.float64]) -> list[str]:
    return [f"{number:.6g}" for number in numbers.tolist()]


def write_images(target: Target, listing: Listing, ledger: Ledger) -> None:
    """images.csv: what became of every listed file."""
    cells = zip(map(to_csv_path, listing.names), file_cells(ledger), strict=True)
    write_csv(target, IMAGE_COLUMNS, ((row, path, *facts) for row, (path, facts) in enumerate(cells)))


def file_cells(ledger: Ledger) -> Iterator[tuple[str | int, ...]]:
    """What images.csv says of every file, after its number and its path."""
    for start, stop in spans(len(ledger), RECORDS_AT_ONCE):
        facts = ledger.facts(start, stop)
        numbers = [["" if n is None else n for n in column] for column in facts[:4]]
        yield from zip(*numbers, facts.digest, facts.status, map(guard_cell, facts.reason), strict=True)


def write_classes(target: Target, paths: Iterable[str], classes: ImageClasses) -> None:
    """classes.csv: the most probable classes of every good image, in listing order. paths : of the good images."""
    cells = class_cells(classes)
    rows = ([to_csv_path(path), *next(cells)] for path in paths for _ in range(classes.per_image))
    write_csv(target, CLASS_COLUMNS, rows)


def class_cells(classes: ImageClasses) -> Iterator[list[str]]:
    """What classes.csv says after the path, row by row."""
    names = [guard_cell(name) for name in classes.names]
    for start, stop in classes.blocks:
        numbers, probabilities = classes.read(start, stop)
        for row, values in zip(numbers.tolist(), probabilities.tolist(), strict=True):
            for rank, (number, value) in enumerate(zip(row, values, strict=True), start=1):
                yield [str(rank), names[number], f"{value:.6g}"]


def write_variance(target: Target, ratio: NDArray[np.float64]) -> None:
    """variance.csv: the cumulative share for every number of components that was computed."""
    write_csv(target, VARIANCE_COLUMNS, variance_rows(ratio))


def variance_rows(ratio: NDArray[np.float64]) -> Iterator[list[str]]:
    return ([str(n), f"{share:.6f}"] for n, share in enumerate(np.cumsum(ratio), start=1))


def write_memory(target: Target, timelines: Mapping[ProcessName, Iterable[Reading]]) -> None:
    """memory.csv: what processes held, sampled; at most some thousand rows of each, see sampler.Timeline."""
    rows = (
        (f"{reading.seconds:.2f}", reading.stage, reading.n_bytes, *name)
        for name, readings in timelines.items()
        for reading in readings
    )
    write_csv(target, ("seconds", "stage", "bytes", *ProcessName._fields), rows)


COLUMNS = ("k", "inertia", "simplified_silhouette", "silhouette_sq", "smallest", "largest", "stability", "n_iter")


def write(files: ResultFiles, rows: list[dict[str, Any]], suggested_k: int | None, reason: str) -> None:
    """Both files of a sweep."""
    write_sweep(files.text("sweep.csv"), rows)
    files.write("sweep.png", draw_sweep(rows, suggested_k, reason))


def write_sweep(target: Target, rows: list[dict[str, Any]]) -> None:
    """sweep.csv: one row per k."""
    cells = ([f"{row[c]:.6g}" if isinstance(row[c], float) else row[c] for c in COLUMNS] for row in rows)
    write_csv(target, COLUMNS, cells)


RESOLUTION_COLUMNS = ("resolution", "n_clusters", "modularity", "smallest", "largest")


def write_resolutions(target: Target, rows: list[dict[str, Any]]) -> None:
    """resolutions.csv: one row per resolution of Leiden's algorithm."""
    cells = ([f"{row[c]:.6g}" if isinstance(row[c], float) else row[c] for c in RESOLUTION_COLUMNS] for row in rows)
    write_csv(target, RESOLUTION_COLUMNS, cells)


def draw_sweep(rows: list[dict[str, Any]], suggested_k: int | None, reason: str) -> bytes:
    """sweep.png, as PNG: inertia above, silhouettes and stability below, the suggestion marked where there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second and 40 MiB: only where it is drawn
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    elbow, quality = figure.subplots(2, 1, sharex=True)
    ks = [row["k"] for row in rows]
    elbow.plot(ks, [row["inertia"] for row in rows], marker="o", color="#1f4e79")
    elbow.set_ylabel("inertia (sum of squared distances)")
    elbow.set_ylim(bottom=0)
    elbow.set_title(reason, fontsize=10, wrap=True, parse_math=False)
    for name, label, color in (
        ("silhouette_sq", "silhouette_sq (exact, squared distances)", "#1f4e79"),
        ("simplified_silhouette", "simplified_silhouette", "#7f7f7f"),
        ("stability", "stability (ARI of two starts)", "#c55a11"),
    ):
        quality.plot(ks, [row[name] for row in rows], marker=".", label=label, color=color)
    quality.set_ylabel("score")
    quality.set_xlabel("k, number of clusters")
    quality.xaxis.get_major_locator().set_params(integer=True)
    # Below the axes: within them it would lie on a curve wherever those fill the plot.
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    for axes in (elbow, quality):
        axes.grid(alpha=0.3)
        if suggested_k is not None:
            axes.axvline(suggested_k, color="#548235", linestyle="--")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    return drawn.getvalue()


@dataclass(frozen=True)
class Predicted:
    """Where one new image belongs. Distances are Euclidean, in score units."""

    label: int
    distance: float
    runner_up: int | None
    """None where there is one cluster only, or where all neighbors are of one community."""
    margin: float | None
    """As in `Membership`; None where there is one cluster only."""
    novelty: float | None
    """How unusual it is: above 1, more so than 95 % of the model's own images; None where those are too few to tell.
    See kernels.novelty."""


def write_predictions(file: IO[str], listing: Listing, rows: Iterable[tuple[FileRecord, Predicted | None]]) -> None:
    """One row per listed file in listing order; a failed one has the label -1. `file` is empty: nothing is linked."""
    columns = (*LABEL_COLUMNS, "novelty")
    table = (
        _cells(name, record, prediction) + cells
        for name, (record, prediction), cells in zip(listing.names, rows, passed_cells(listing), strict=True)
    )
    write_rows(file, (*columns, *passed_columns(listing, columns)), table)


def _cells(name: str, record: FileRecord, prediction: Predicted | None) -> list[str]:
    if prediction is None:
        return [to_csv_path(name), "-1", "", "", "", record.status, "", ""]
    cells = [to_csv_path(name), str(prediction.label), f"{prediction.distance:.6g}"]
    cells.append("" if prediction.runner_up is None else str(prediction.runner_up))
    cells.append("" if prediction.margin is None else f"{prediction.margin:.6g}")
    return [*cells, record.status, "", "" if prediction.novelty is None else f"{prediction.novelty:.6g}"]
