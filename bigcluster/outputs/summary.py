"""summary.json: what happened, in numbers."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigcluster.errors import MemoryBudgetError, StoreError
from bigcluster.files.bounded import (
    check_room,
    count_values,
    json_bytes,
    parse_json,
    read_bounded,
)
from bigcluster.files.forms import dict_of, keys, list_of, number, one_of, optional, printable_line, text, whole
from bigcluster.units import MIB, counted, show_bytes

if TYPE_CHECKING:
    from bigcluster.catalog import Listing
    from bigcluster.stages.classes import ClusterClasses

FOLDERS_NAMED = 100
"""Folders that could not be read that summary.json names, at most; `ignored_by_suffix` has the number of all."""
CLUSTERS_NAMED = 1000
"""Clusters whose name and classes summary.json tells, at most: half a MiB."""
CLASS_CHARACTERS = 130
"""Characters of the name of a class in it, at most; the longest of ImageNet has 121."""
SWALLOWED = 0.6
"""Share of the images in one cluster above which the summary advises other settings. Chosen, not measured."""
_FINER = "try --set resolution=2, or a number with -k"
SPIKE_SHARE = 0.02
"""Share of the measured peak by which memory must rise between samples for a message. Chosen, not measured."""
_SUMMARY_BYTES, _SUMMARY_VALUES = 4 * MIB, 50_000
"""Bytes and JSON values of summary.json without its clusters, at most: a thousand suffixes, a hundred folders,
settings, facts."""
_MOST_BYTES, _MOST_VALUES = 16 * MIB, 2_000_000
"""Bytes and JSON values of summary.json, at most: those of a million clusters."""
_OPENED_BYTES, _OPENED_VALUES = 8 * MIB, 1_000_000
"""The same where the number of clusters is not known: 300,000 of them. Parsing it takes 64 MiB at most."""
_CLUSTER_BYTES, _CLUSTER_VALUES = 64, 2
"""Bytes and JSON values of a cluster in it: its size and its former number, a line each."""
_MOST_QUOTES = 50_000
"""Quotes and brackets in it, at most, for any number of clusters: a cluster has none. Chosen, not measured."""
_VERSIONED = ("bigcluster", "numpy", "opencv-python-headless", "pillow", "zarr", "dask", "dask-ml", "scikit-learn")
_OF_REDUCTIONS = {"tsne": ("openTSNE",), "umap": ("umap-learn", "numba")}


def counts(listing: Listing, statuses: Mapping[str, int], closed: Iterable[str] = ()) -> dict[str, Any]:
    """listed = ok + failed; failures by status; files that are not images by suffix.

    statuses : by status, how many of the listed files have it.
    """
    failures = {status: n for status, n in sorted(statuses.items()) if status != "ok"}
    return {
        "listed": len(listing),
        "ok": statuses.get("ok", 0),
        "failed": sum(failures.values()),
        "failed_by_status": failures,
        "ignored": sum(listing.ignored.values()),
        "ignored_by_suffix": listing.ignored,
        **folders_of(listing, closed),
    }


def folders_of(listing: Listing, closed: Iterable[str] = ()) -> dict[str, list[str]]:
    """The folders that could not be read, relative to the root, "." for the root itself; then those, not below them,
    in which no file could be looked at (`closed`)."""
    unread = listing.unreadable
    others = [f for f in closed if not any(f == u or f.startswith(f"{u}/" if u else "") for u in unread)]
    return {"unreadable_folders": [name or "." for name in (*unread, *sorted(others))][:FOLDERS_NAMED]}


def advice(sizes: list[int], algorithm: str) -> list[str]:
    """What to try where the clusters say little; `sizes` largest first. algorithm : kmeans or leiden."""
    n_images, lines = sum(sizes), []
    of_kmeans = algorithm == "kmeans"
    if len(sizes) > 1 and sizes[0] > SWALLOWED * n_images:
        instead = "try --set image.normalize=image, another --variance, or a larger k"
        lines.append(f"one cluster holds {sizes[0] / n_images:.0%} of the images; {instead if of_kmeans else _FINER}")
    if len(sizes) == 1 and n_images > 1 and not of_kmeans:
        lines.append(f"all images are in one group; {_FINER}")
    alone = sizes.count(1)
    if alone and n_images > len(sizes):
        hold = "clusters hold one image each" if alone > 1 else "clusters holds a single image"
        why = "outliers, or k is too large; try a smaller k" if of_kmeans else "outliers, or resolution is too large"
        lines.append(f"{alone} of {len(sizes)} {hold}: {why}")
    return lines


def names_of_clusters(classes: ClusterClasses | None, n_clusters: int) -> dict[str, Any]:
    """Return the entries of the summary on the classes of clusters: suggested names, and the classes that stand out.

    There are none where images have no classes. Of more than CLUSTERS_NAMED clusters, the largest are named; labels.csv
    names all.
    """
    if classes is None:
        return {}
    named = range(min(n_clusters, CLUSTERS_NAMED))
    return {
        "cluster_names": [classes.name(cluster) for cluster in named],
        "cluster_classes": [
            [
                {"class": clipped(entry.name), "share": round(entry.share, 4), "lift": round(entry.lift, 3)}
                for entry in classes.of(cluster)
            ]
            for cluster in named
        ],
    }


def clipped(name: str) -> str:
    """Return the name of a class in at most CLASS_CHARACTERS characters."""
    return name if len(name) <= CLASS_CHARACTERS else f"{name[: CLASS_CHARACTERS - 1]}…"


_BROKEN = "that is more than was promised: a fault of bigcluster's; see memory.csv for the stage"


def memory_lines(memory: Mapping[str, Any]) -> Iterator[str]:
    """Promised and measured, what the caller held before; and what the measurement cannot say. memory : of a summary.

    Summaries of earlier versions do not have `held_before_bytes`: all of the caller counted.
    """
    measured, unseen = memory["measured_peak_bytes"], memory["unseen_bytes"]
    how = "" if memory["metric"] == "pss" else f" ({memory['metric'].upper()}: this system has no PSS)"
    before = memory.get("held_before_bytes", 0)
    beside = f"; the calling process held {show_bytes(before)} before, which does not count" if before else ""
    yield f"memory: {show_bytes(measured)} measured{how}, {show_bytes(memory['budget_bytes'])} promised{beside}"
    if unseen > SPIKE_SHARE * measured:
        yield f"between samples a process went up to {show_bytes(unseen)} beyond what was sampled of it (VmHWM)"
    if measured > memory["budget_bytes"]:
        yield _BROKEN
    workers = memory.get("workers")
    if workers is None or workers["measured_peak_bytes"] is None:
        return
    measured, unseen = workers["measured_peak_bytes"], workers["unseen_bytes"]
    where = f"stage {workers['stage']}, {workers['process']} on {workers['host']}"
    yield (
        f"each of {counted(workers['number'], 'worker')}: {show_bytes(measured)} measured at most ({where}), "
        f"{show_bytes(workers['budget_bytes'])} promised"
    )
    if unseen > SPIKE_SHARE * measured:
        yield f"between samples a worker went up to {show_bytes(unseen)} beyond what was sampled of it (VmHWM)"
    if measured > workers["budget_bytes"]:
        yield _BROKEN


def versions(reduced_by: str = "pca") -> dict[str, str]:
    """Return the versions of Python and of the libraries, with that of the setting `reduce`."""
    versions_by_name = {"python": platform.python_version()}
    for name in (*_VERSIONED, *_OF_REDUCTIONS.get(reduced_by, ())):
        try:
            versions_by_name[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            versions_by_name[name] = "unknown"
    return versions_by_name


def summary_text(summary: Mapping[str, Any]) -> str:
    """The text of summary.json. Raises ValueError for a number that JSON does not have."""
    return json.dumps(summary, indent=2, allow_nan=False) + "\n"


_SUMMARY_KEYS = keys(
    {
        "counts": keys(
            {**dict.fromkeys(("listed", "ok", "failed"), whole()), "failed_by_status": dict_of(whole())}, others=True
        ),
        **dict.fromkeys(("n_clusters", "n_components"), whole(1)),
        "cluster_sizes": list_of(whole()),
        "inertia": optional(number),
        "explained_variance_ratio": optional(number),
        "advice": list_of(printable_line),
        "memory": keys(
            {
                **dict.fromkeys(("budget_bytes", "measured_peak_bytes", "unseen_bytes"), whole()),
                "metric": printable_line,
            },
            {
                "held_before_bytes": whole(),
                "workers": keys(
                    {
                        **dict.fromkeys(("number", "budget_bytes", "projected_peak_bytes"), whole()),
                        **dict.fromkeys(("measured_peak_bytes", "unseen_bytes"), optional(whole())),
                    },
                    dict.fromkeys(("stage", "host", "process"), printable_line),
                ),
            },
            others=True,
        ),
        "stages": dict_of(
            keys(
                {"seconds": number, "projected_peak_bytes": optional(whole()), "measured_peak_bytes": whole()},
                {"solver": printable_line, "reused": lambda value: type(value) is bool},
                others=True,
            )
        ),
        "settings": keys({"reduce": text}, {"seed": whole(), "link": text, "resolution": number}, others=True),
        "versions": dict_of(printable_line),
    },
    {
        "seconds": number,
        "algorithm": one_of("kmeans", "leiden"),
        "modularity": number,
        "n_dimensions": optional(whole(1)),
        "nearest_previous": optional(list_of(optional(whole()))),
        "cluster_names": list_of(printable_line),
        "cluster_classes": list_of(list_of(keys({"class": printable_line, "share": number, "lift": number}))),
        "sweep": optional(
            keys({"k": whole(1), "reason": printable_line, "caveats": list_of(printable_line)}, others=True)
        ),
    },
    others=True,
)


def _is_summary(value: Any) -> bool:
    """Whether a value is a summary. Communities have a resolution and a modularity in place of the inertia."""
    if not _SUMMARY_KEYS(value):
        return False
    return value["inertia"] is not None or ("modularity" in value and "resolution" in value["settings"])


def read_summary(path: Path, n_clusters: int | None = None) -> dict[str, Any]:
    """The summary of a run that came to its end; n_clusters : of the store, where that is known.

    Raises StoreError where the file cannot be ours, MemoryBudgetError where the budget does not leave what it takes.
    """
    most_bytes, most_values = _OPENED_BYTES, _OPENED_VALUES
    if n_clusters is not None:
        most_bytes = min(_MOST_BYTES, _SUMMARY_BYTES + _CLUSTER_BYTES * n_clusters)
        most_values = min(_MOST_VALUES, _SUMMARY_VALUES + _CLUSTER_VALUES * n_clusters)
    try:
        raw = read_bounded(path, most_bytes)
        if raw.count(b'"') > _MOST_QUOTES or raw.count(b"[") + raw.count(b"{") > _MOST_QUOTES:
            raise ValueError("its values are not those of a summary")
        check_room(path, json_bytes(len(raw), min(most_values, count_values(raw))), "or run the job again")
        values = parse_json(raw, most_values)
    except MemoryBudgetError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"{path} cannot be read: {reason}; run the job again") from error
    if not _is_summary(values):
        raise StoreError(f"{path} is not a summary; run the job again")
    summary: dict[str, Any] = values
    return summary
