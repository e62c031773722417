"""This module checks that the tables of OUT, summary.json and run.toml agree with the store.

It also checks the list of images that a Python call passed, which is in OUT/manifest.csv. Each file is compared row by
row with what would be written today. The first difference is reported.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from bigcluster.catalog import from_csv_path, path_key
from bigcluster.catalog.ledger import Ledger
from bigcluster.errors import MemoryBudgetError, StoreError
from bigcluster.files.bounded import UnfitFileError, read_rows
from bigcluster.files.durable import digest_of_file, is_regular
from bigcluster.files.toml import parse_toml
from bigcluster.outdir import MANIFEST, RUN_TOML, results
from bigcluster.outputs import manifest_copy, tables
from bigcluster.outputs.summary import names_of_clusters, read_summary
from bigcluster.pipeline.audit.model import Stored
from bigcluster.planning.stage_names import OUTPUT, REDUCE
from bigcluster.stages.classes import ClusterClasses, classes_of_clusters, load_classes
from bigcluster.stages.membership import load_labels, load_membership
from bigcluster.store import Damage, Store

Row = list[str]


def audit(out: Path, store: Store, stored: Stored) -> Iterator[Damage]:
    """Yield the damage of the files of a finished run, at most one for each file."""
    digests, ledger = results.listed_files(store.marks), stored.read_ledger()
    read_classes = cache(partial(_classes_of_clusters, store, stored, ledger))
    compare: dict[str, Callable[[Path], str | None]] = {
        "labels.csv": lambda path: _compare_labels(path, store, stored, ledger, read_classes()),
        "images.csv": lambda path: _compare_images(path, ledger),
        "classes.csv": lambda path: _compare_classes(path, store, ledger),
        "variance.csv": lambda path: _compare_variance(path, store, stored),
        results.SUMMARY: lambda path: _compare_summary(path, store, stored, ledger, read_classes()),
    }
    for name in sorted(digests.keys() - {RUN_TOML}):
        what = _difference(out / name, compare.get(name), digests[name])
        if what is not None:
            yield Damage(name, OUTPUT, what)
    if what := _difference_of_list(out, store):
        yield Damage(MANIFEST, manifest_copy.MARK, what)


def _classes_of_clusters(store: Store, stored: Stored, ledger: Ledger) -> ClusterClasses | None:
    """Return the classes that stand out in each cluster; None where no classes or no clusters are stored."""
    classes = None if stored.clustered is None else load_classes(store, ledger.ok)
    if classes is None or stored.clustered is None:
        return None
    n_clusters = stored.clustered.payload["n_clusters"]
    return classes_of_clusters(classes, load_labels(store, n_clusters), n_clusters)


def _difference_of_list(out: Path, store: Store) -> str | None:
    """Return the fault of the list of images that a Python call passed; None where it has none or there was no list."""
    settings, mark = parse_toml(results.listed_settings(store.marks)), store.mark(manifest_copy.MARK)
    if mark is None or settings.get("images") != os.path.join(settings.get("out", ""), MANIFEST):
        return None
    path = out / MANIFEST
    if not is_regular(path):
        return "is gone: give the list of images to bc.run again"
    if digest_of_file(path) == mark.fingerprint:
        return None
    return "is not the list that was given: move it away, and give the list to bc.run again"


def _difference(path: Path, compare: Callable[[Path], str | None] | None, digest: str) -> str | None:
    if not path.is_file():
        return "is gone"
    try:
        what = None if compare is None else compare(path)
    except MemoryBudgetError:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        csv.Error,
        UnfitFileError,
        StoreError,
    ) as error:  # not the format that it was
        what = f"cannot be read ({type(error).__name__})"
    return what or ("is not what was written" if digest_of_file(path) != digest else None)


def _compare_labels(
    path: Path, store: Store, stored: Stored, ledger: Ledger, classes: ClusterClasses | None
) -> str | None:
    """Compare the label, distance, runner-up, margin, status and name of every row, and the paths of the good rows."""
    if stored.clustered is None:
        return None
    membership = load_membership(store, stored.clustered)
    columns = tables.LABEL_COLUMNS if classes is None else (*tables.LABEL_COLUMNS, tables.CLUSTER_NAME)
    width, places = len(tables.LABEL_COLUMNS) - 2, len(columns)  # without path and file
    written = ((row[0], row[1 : 1 + width] + row[2 + width : places]) for row in _body(path, columns))
    cells = (
        [*cells] if classes is None else [*cells, tables.cluster_name_cell(classes, cells[0])]
        for cells in tables.label_cells(ledger, membership)
    )
    keys = (key.tobytes() for key in store.load("row_keys").astype("<u8"))
    for number, (row, expected) in enumerate(zip_longest(written, cells), start=1):
        if row is None or expected is None:
            return f"has {'fewer' if row is None else 'more'} rows than images were listed"
        if row[1] != expected:
            return f"row {number} says {','.join(row[1])}, the store {','.join(expected)}"
        if expected[width - 1] == "ok" and path_key(from_csv_path(row[0])) != next(keys):
            return f"row {number} names another image than the store"
    return None


def _compare_images(path: Path, ledger: Ledger) -> str | None:
    expected = (list(map(str, cells)) for cells in tables.file_cells(ledger))
    return _first_difference((row[2:] for row in _body(path, tables.IMAGE_COLUMNS)), expected)


def _compare_classes(path: Path, store: Store, ledger: Ledger) -> str | None:
    classes = load_classes(store, ledger.ok)
    if classes is None:
        return "is of features without classes"
    keys = (key.tobytes() for key in store.load("row_keys").astype("<u8") for _ in range(classes.per_image))
    expected = ([key, *cells] for key, cells in zip(keys, tables.class_cells(classes), strict=True))
    written = ([path_key(from_csv_path(row[0])), *row[1:]] for row in _body(path, tables.CLASS_COLUMNS))
    return _first_difference(written, expected)


def _compare_variance(path: Path, store: Store, stored: Stored) -> str | None:
    if stored.fitted is None or store.mark(REDUCE) is None:
        return None
    ratio = store.load("explained_variance") / stored.fitted.payload["total_variance"]
    return _first_difference(_body(path, tables.VARIANCE_COLUMNS), tables.variance_rows(ratio))


def _body(path: Path, header: Iterable[str]) -> Iterator[Row]:
    """Yield the rows after the header. Raises ValueError where the header is another one."""
    rows, columns = read_rows(path), list(header)
    if next(rows, [])[: len(columns)] != columns:
        raise ValueError("another header")
    return rows


def _first_difference(written: Iterable[list[Any]], expected: Iterable[list[Any]]) -> str | None:
    for number, (row, other) in enumerate(zip_longest(written, expected), start=1):
        if row != other:
            return f"row {number} is not what the store says"
    return None


def _compare_summary(
    path: Path, store: Store, stored: Stored, ledger: Ledger, classes: ClusterClasses | None
) -> str | None:
    summary = read_summary(path, None if stored.clustered is None else stored.clustered.payload["n_clusters"])
    counts, statuses = summary["counts"], ledger.counts()
    if counts["listed"] != counts["ok"] + counts["failed"] or counts["listed"] != statuses.total():
        return f"counts {counts['listed']} images as listed, the store {statuses.total()}"
    if counts["ok"] != statuses["ok"]:
        return f"counts {counts['ok']} good images, the store {statuses['ok']}"
    if stored.clustered is None:
        return None
    n_clusters = stored.clustered.payload["n_clusters"]
    sizes = np.bincount(load_labels(store, n_clusters), minlength=n_clusters).tolist()
    names = names_of_clusters(classes, n_clusters)
    if any(summary.get(name) != value for name, value in names.items()):
        return "has other names of clusters than the store"
    if summary["cluster_sizes"] != sizes or summary["inertia"] != stored.clustered.payload["inertia"]:
        return "has other clusters than the store"
    return None
