"""The results of a finished run as plain arrays. The pages are made of these and of the stored pixels only."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import StringArray, from_csv_path, guard_cell, to_csv_path
from bigcluster.catalog.ledger import Ledger
from bigcluster.config import MANIFOLDS
from bigcluster.errors import StoreError
from bigcluster.files.bounded import read_rows
from bigcluster.kernels.decode import DecodeSpec
from bigcluster.outputs.folders import FOLDER as CLUSTERS
from bigcluster.planning.stage_names import CLUSTER, REDUCE, SWEEP
from bigcluster.report.texts import file_name
from bigcluster.stages import sweep as sweep_stage
from bigcluster.stages.classes import ClusterClasses, classes_of_clusters, load_classes
from bigcluster.stages.ingest import Ingested, load_ingested, load_listed, stored_recipe
from bigcluster.stages.membership import LEIDEN, algorithm_of, load_membership
from bigcluster.stages.reduce import made_clusters
from bigcluster.store import Mark, Store

NO_LINK, LINK_OF_ITS_NAME = 0, 1
"""The link of an image that has no entry under clusters/, and of one whose entry has the file's own name. report.js
reads them as numbers; an entry with another name is its URL."""


@dataclass(frozen=True)
class Members:
    """The cluster of every good row, and the rows of each cluster in order of distance."""

    labels: NDArray[np.int32]
    """(n_ok,)"""
    distance: NDArray[np.float64]
    """(n_ok,), from each row to the center of its cluster, in units of the scores."""
    runner_up: NDArray[np.int32] | None
    """(n_ok,), the second nearest cluster, or the one with the second most votes of neighbors. None where there is one
    cluster only; so is `margin`."""
    margin: NDArray[np.float64] | None
    """(n_ok,), how much farther the center of the runner-up is; or, with `of_votes`, the share of neighbors in the own
    cluster minus that in the runner-up."""
    order: NDArray[np.int64]
    """(n_ok,) good rows by cluster, nearest to its center first, ties in listing order."""
    starts: NDArray[np.int64]
    """(k + 1,) where each cluster's rows begin in `order`."""
    of_votes: bool = False
    """Whether neighbors voted on the runner-up: it is then -1 where all of them are in one cluster."""

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


@dataclass(frozen=True)
class Written:
    """The listed files as a run has them in memory when it writes the report; row i of each is the i-th listed file."""

    names: StringArray
    ledger: Ledger
    files: StringArray
    """The path of the entry below clusters/, which leads to the image; "" where there is none."""


@dataclass(frozen=True)
class Listed:
    """The listed files. Good rows are those of `ok` in listing order; the other files could not be read."""

    written: Written
    paths: StringArray
    """(n_ok,) the paths of the good rows as labels.csv shows them: the search asks for each several times."""
    good: NDArray[np.int32]
    """(n_ok,) the listed row of every good row."""
    failed: NDArray[np.int32]
    """(n_failed,) the listed rows of the others."""
    sizes: NDArray[np.int64]
    """(n_ok, 2), width and height of the files in pixels."""
    n_gone: int = 0
    """The number of entries under clusters/ that no longer lead to a file."""
    n_alone: int = 0
    """The number of hard links whose original was removed, or is another file now."""
    gone: frozenset[int] = frozenset()
    """The good rows of the entries that are gone."""

    @classmethod
    def of(cls, written: Written) -> Listed:
        """The listed files of a run whose entries all lead to their images."""
        ok = written.ledger.ok
        good = np.flatnonzero(ok)
        paths = StringArray(
            to_csv_path(name) for name, is_good in zip(written.names, ok.tolist(), strict=True) if is_good
        )
        failed = np.flatnonzero(~ok).astype(np.int32)
        return cls(written, paths, good.astype(np.int32), failed, written.ledger.sizes()[good])

    @property
    def n_failed(self) -> int:
        """Return the number of files that could not be read."""
        return len(self.failed)

    def path(self, row: int) -> str:
        """Return the path of a good row as labels.csv shows it."""
        return self.paths[row]

    def failure(self, number: int) -> tuple[str, str, str]:
        """Return path, status and reason of a failed file, as labels.csv and images.csv show them."""
        row = int(self.failed[number])
        record = self.written.ledger[row]
        return to_csv_path(self.written.names[row]), record.status, guard_cell(record.reason)

    def link(self, row: int) -> int | str:
        """Return the link of a good row to its entry: NO_LINK, LINK_OF_ITS_NAME or, percent-encoded, its URL below
        clusters/."""
        file = self.written.files[self.good[row]]
        if not file or row in self.gone:
            return NO_LINK
        path = self.path(row)
        plain = "\\" not in path and file_name(to_csv_path(file)) == file_name(path)
        return LINK_OF_ITS_NAME if plain else quote(os.fsencode(file))


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
    classes: ClusterClasses | None
    """The classes that stand out in each cluster. None where images have no classes."""
    reduction: str
    """The setting `reduce` of the clusters."""

    @property
    def has_places(self) -> bool:
        """Return whether places by t-SNE or UMAP were clustered. A center of places is no picture."""
        return self.reduction in MANIFOLDS

    @property
    def n_good(self) -> int:
        """Return the number of images that could be read."""
        return len(self.members.labels)


def read_model(out: Path, store: Store, summary: dict[str, Any], written: Written | None = None) -> Model:
    """Read the results of the run in OUT. summary : summary.json of that run.

    written : the listed files, where this process has written their tables and entries; else they are read.
    Raises StoreError where OUT holds no finished run, or tables of one run and arrays of another.
    """
    ingested = load_ingested(store)
    clustered = store.mark(CLUSTER)
    fit = store.mark(REDUCE)
    if (
        clustered is None
        or clustered.payload["images"] != ingested.fingerprint
        or not made_clusters(store, fit, clustered)
    ):
        raise StoreError(f"{out} holds no finished run; run the job to its end first")
    members = _members(store, clustered)
    if written is None:
        listed = Listed.of(_read_written(out, store, members.labels))
        listed = _look_at_entries(out, listed, hard_links=summary["settings"].get("link") == "hardlink")
    else:
        listed = Listed.of(written)
    ratio = None
    if clustered.payload["reduction"] != "none" and fit is not None:
        ratio = store.load("explained_variance") / fit.payload["total_variance"]
    sweep = _sweep(store, clustered.payload["rows"])
    of_images = load_classes(store, ingested.ok)
    classes = None if of_images is None else classes_of_clusters(of_images, members.labels, members.n_clusters)
    return Model(
        out,
        summary,
        stored_recipe(store),
        ingested,
        members,
        listed,
        ratio,
        sweep,
        clustered.fingerprint,
        classes,
        clustered.payload["reduction"],
    )


def _members(store: Store, clustered: Mark) -> Members:
    n_clusters, membership = clustered.payload["n_clusters"], load_membership(store, clustered)
    labels, distance = membership.labels, membership.distance
    order = np.lexsort((distance, labels))  # stable: rows of one distance keep their order
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=n_clusters))])
    of_votes = algorithm_of(clustered) == LEIDEN
    return Members(labels, distance, membership.runner_up, membership.margin, order, starts, of_votes)


def _sweep(store: Store, rows: str) -> sweep_stage.Verdict | None:
    """The stored sweep, where it was made from the scores that are clustered now; else None."""
    mark = store.mark(SWEEP)
    if mark is None or mark.payload.get("of") != rows:
        return None
    return sweep_stage.verdict_of(mark)


def _look_at_entries(out: Path, listed: Listed, *, hard_links: bool) -> Listed:
    """Return the listed files with what has become of their entries under clusters/ since the run."""
    gone, n_alone = list[int](), 0
    for row, listed_row in enumerate(listed.good.tolist()):
        file = listed.written.files[listed_row]
        if file:
            entry = os.path.join(out, CLUSTERS, file)
            try:
                status = os.stat(entry)
            except OSError:
                gone.append(row)
            else:
                n_alone += hard_links and status.st_nlink == 1 and not os.path.islink(entry)
    return replace(listed, n_gone=len(gone), n_alone=n_alone, gone=frozenset(gone))


def _read_written(out: Path, store: Store, labels: NDArray[np.int32]) -> Written:
    """Read names and records from the store, and the entries from labels.csv, whose paths and labels are checked."""
    names, ledger = load_listed(store)
    differs = StoreError(f"{out}: labels.csv is not that of the stored clusters; run the job again")
    expected = iter(labels.tolist())
    files = StringArray()
    try:
        rows = read_rows(out / "labels.csv")
        next(rows, None)
        for name, ok, row in zip(names, ledger.ok.tolist(), rows, strict=True):
            if row[0] != to_csv_path(name) or (ok and int(row[1]) != next(expected)):
                raise differs
            files.append(from_csv_path(row[6]) if row[6] else "")
    except FileNotFoundError as error:
        raise StoreError(f"{error.filename} is gone; run the job again: it is written anew") from error
    except (ValueError, IndexError, StopIteration) as error:  # bigcluster did not write this line
        raise differs from error
    return Written(names, ledger, files)
