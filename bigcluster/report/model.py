"""The results of a finished run as plain arrays. The pages are made of these and of the stored pixels only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import StringArray, from_csv_path
from bigcluster.errors import StoreError
from bigcluster.files.bounded import read_rows
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.outputs.folders import FOLDER as CLUSTERS
from bigcluster.planning.stage_names import CLUSTER, REDUCE, SWEEP
from bigcluster.report.texts import file_name
from bigcluster.stages import cluster
from bigcluster.stages import sweep as sweep_stage
from bigcluster.stages.ingest import Ingested, load_ingested, stored_recipe
from bigcluster.store import Store

NO_LINK, LINK_OF_ITS_NAME, OTHER_LINK = 0, 1, 2
"""Kinds of an image's entry under clusters/: none, one with the file's own name, or one with another name. report.js
reads the first two as numbers."""


@dataclass(frozen=True)
class Members:
    """The cluster of every good row, and the rows of each cluster in order of distance."""

    labels: NDArray[np.int32]
    """(n_ok,)"""
    distance: NDArray[np.float64]
    """(n_ok,), from each row to the center of its cluster, in units of the scores."""
    runner_up: NDArray[np.int32] | None
    """(n_ok,), the cluster whose center is the second nearest. None where there is one cluster only; so is `margin`."""
    margin: NDArray[np.float64] | None
    """(n_ok,), how much farther the center of the runner-up is."""
    order: NDArray[np.int64]
    """(n_ok,) good rows by cluster, nearest to its center first, ties in listing order."""
    starts: NDArray[np.int64]
    """(k + 1,) where each cluster's rows begin in `order`."""

    @property
    def n_clusters(self) -> int:
        """Return k."""
        return len(self.starts) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Return (k,), the number of rows of each cluster."""
        return np.diff(self.starts)

    def of(self, number: int) -> NDArray[np.int64]:
        """Return the rows of one cluster, nearest to its center first."""
        return self.order[self.starts[number] : self.starts[number + 1]]


@dataclass
class Listed:
    """The listed files, from labels.csv and images.csv. Columns have one value per good row; `failed` has the rest."""

    paths: StringArray = field(default_factory=StringArray)
    """The paths as labels.csv shows them."""
    links: StringArray = field(default_factory=StringArray)
    """Percent-encoded URL below clusters/ where the entry has another name than the file; else the empty text."""
    link_kinds: bytearray = field(default_factory=bytearray)
    """NO_LINK, LINK_OF_ITS_NAME or OTHER_LINK."""
    sizes: list[tuple[int, int]] | NDArray[np.int32] = field(default_factory=list)
    """(n_ok, 2), width and height of the files in pixels."""
    failed: list[StringArray] = field(default_factory=lambda: [StringArray(), StringArray(), StringArray()])
    """path, status and reason of every file that could not be read."""
    n_gone: int = 0
    """The number of entries under clusters/ that no longer lead to a file."""
    n_alone: int = 0
    """The number of hard links whose original was removed, or is another file now."""

    @property
    def n_failed(self) -> int:
        """Return the number of files that could not be read."""
        return len(self.failed[0])


@dataclass(frozen=True)
class Model:
    """The results of a run without any pictures."""

    out: Path
    summary: dict[str, Any]
    spec: DecodeSpec
    ingested: Ingested
    members: Members
    listed: Listed
    variance_ratio: NDArray[np.float64] | None
    """(n_computed,), the share of the total variance of each component. None where nothing was reduced."""
    sweep: sweep_stage.Verdict | None
    """The sweep over k on these scores. None where there is none."""
    fingerprint: str
    """The fingerprint of the clusters."""

    @property
    def n_good(self) -> int:
        """Return the number of images that could be read."""
        return len(self.members.labels)


def read_model(out: Path, store: Store, summary: dict[str, Any]) -> Model:
    """Read the results of the run in OUT. summary : summary.json of that run.

    Raises StoreError where OUT holds no finished run, or tables of one run and arrays of another.
    """
    ingested = load_ingested(store)
    clustered = store.mark(CLUSTER)
    if clustered is None or clustered.payload["images"] != ingested.fingerprint:
        raise StoreError(f"{out} holds no finished run; run the job to its end first")
    members = _members(store, clustered.payload["n_clusters"])
    listed = _read_listed(out, ingested.ok, members, hard_links=summary["settings"].get("link") == "hardlink")
    ratio = None
    fit = store.mark(REDUCE)
    if clustered.payload["reduction"] == "pca" and fit is not None:
        ratio = store.load("explained_variance") / fit.payload["total_variance"]
    sweep = _sweep(store, clustered.payload["rows"])
    return Model(out, summary, stored_recipe(store), ingested, members, listed, ratio, sweep, clustered.fingerprint)


def _members(store: Store, n_clusters: int) -> Members:
    labels, distance = cluster.load_labels(store, n_clusters), store.load("distance")
    order = np.lexsort((distance, labels))  # stable: rows of one distance keep their order
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=n_clusters))])
    if n_clusters == 1:
        return Members(labels, distance, None, None, order, starts)
    margin = store.load("runner_up_distance") - distance
    return Members(labels, distance, store.load("runner_up"), margin, order, starts)


def _sweep(store: Store, rows: str) -> sweep_stage.Verdict | None:
    """The stored sweep, where it was made from the scores that are clustered now; else None."""
    mark = store.mark(SWEEP)
    if mark is None or mark.payload.get("of") != rows:
        return None
    return sweep_stage.verdict_of(mark)


def _read_listed(out: Path, ok: NDArray[np.bool_], members: Members, *, hard_links: bool) -> Listed:
    """Read both tables at once, row by row, and check them against the stored labels."""
    listed = Listed()
    sizes = np.zeros((int(ok.sum()), 2), np.int32)
    differs = StoreError(f"{out}: labels.csv and images.csv are not those of the stored clusters; run the job again")
    rows = _side_by_side(out / "labels.csv", out / "images.csv")
    good = 0
    try:
        for number, (label_row, image_row) in enumerate(rows):
            if number == len(ok) or label_row[0] != image_row["path"]:
                raise differs
            if not ok[number]:
                for column, value in zip(
                    listed.failed, (label_row[0], image_row["status"], image_row["reason"]), strict=True
                ):
                    column.append(value)
                continue
            if int(label_row[1]) != members.labels[good]:
                raise differs
            sizes[good] = int(image_row["width"]), int(image_row["height"])
            _note_file(listed, out, label_row[0], label_row[6], hard_links=hard_links)
            good += 1
    except (ValueError, KeyError, IndexError, OverflowError) as error:  # bigcluster did not write this line
        raise differs from error
    if good != len(sizes):
        raise differs
    listed.sizes = sizes
    return listed


def _side_by_side(labels: Path, images: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    try:
        label_rows, image_rows = read_rows(labels), read_rows(images)
        next(label_rows, None)
        header = next(image_rows, [])
        for label_row, image_row in zip(label_rows, image_rows, strict=True):
            yield label_row, dict(zip(header, image_row, strict=True))
    except FileNotFoundError as error:
        raise StoreError(f"{error.filename} is gone; run the job again: it is written anew") from error


def _note_file(listed: Listed, out: Path, path: str, cell: str, *, hard_links: bool) -> None:
    """Add a good file to the columns: its path, and its entry under clusters/ if that still leads to a file.

    cell : the path of the entry as labels.csv has it; empty where the file has no entry.
    """
    listed.paths.append(path)
    kind, link = NO_LINK, ""
    if cell:
        file = from_csv_path(cell)
        entry = os.path.join(out, CLUSTERS, file)
        try:
            status = os.stat(entry)
        except OSError:
            listed.n_gone += 1
        else:
            listed.n_alone += hard_links and status.st_nlink == 1 and not os.path.islink(entry)
            plain = file_name(file) == file_name(path) and "\\" not in path
            kind, link = (LINK_OF_ITS_NAME, "") if plain else (OTHER_LINK, quote(os.fsencode(file)))
    listed.link_kinds.append(kind)
    listed.links.append(link)
