"""The images that the report shows: which of them get a thumbnail, and the lists that are too long for one page.

A thumbnail is made for some images of every cluster, for the members nearest to their centers while the setting
`report.thumbnails` allows it, and for the sample of the map.

Long lists are JSON in script files, and a page loads them piece by piece. A page that is opened from disk may not
fetch a file, but it may add a script. Each script calls one function with its own name and plain JSON in ASCII without
`<`, so that a file name stays a string, whatever characters it has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.report.model import Members, Model
from bigcluster.store.row_source import spans

DATA = "data"
"""Folder below report/ that holds the script files."""
PAGE_MEMBERS = 200
"""Members on one page of a cluster's list, and pictures in one sprite. Chosen, not measured."""
PAGE_FAILED = 500
"""Failed files on one page of their list, which has no pictures. Chosen, not measured."""
MONTAGE_ROWS = 8
"""Images of each cluster in the montage, its nearest ones. Chosen, not measured."""
MONTAGE_CLUSTERS = 1000
"""Columns of the montage: with more, the page itself would grow past a megabyte."""
MAP_ROWS = 10_000
"""Images on the map; more than these are sampled. Chosen, not measured."""
_FEWEST, _MOST = 4, 24
"""Limits of the number of images in one section of a cluster's page. Chosen, not measured."""

_to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
Positions = NDArray[np.int64]
"""Places in a cluster's order of distance: 0 is the nearest to the center."""


@dataclass(frozen=True)
class Picks:
    """The images that a cluster's page shows in its sections.

    The nearest one is also the medoid: the member whose squared distances to all others have the smallest sum is the
    one nearest to their mean.
    """

    nearest: Positions
    borderline: Positions
    """Smallest margin first."""
    farthest: Positions
    sample: Positions

    @property
    def all(self) -> Positions:
        """Return the distinct positions of all sections in ascending order."""
        return np.unique(np.concatenate([self.nearest, self.borderline, self.farthest, self.sample]))


@dataclass(frozen=True)
class Selection:
    """The images that get a thumbnail. Row numbers count the good rows only."""

    picks: Sequence[Picks]
    """(k,), by cluster."""
    n_paged: int
    """The list of each cluster shows the pictures of this number of members, the nearest ones."""
    map_rows: NDArray[np.int64]
    rows: NDArray[np.int64]
    """All rows that need a picture, ascending."""

    def shows_all(self, members: Members) -> bool:
        """Whether every image has a thumbnail."""
        return self.n_paged >= int(members.sizes.max())


def select(members: Members, row_keys: NDArray[np.uint64], most: int, *, with_map: bool) -> Selection:
    """Choose the images that get a thumbnail. The choice depends on distances, margins and `row_keys` alone.

    row_keys : (n_ok,) uint64, hashes of the paths. The images with the smallest ones are a random sample, which depends
    neither on the order of the files nor on the seed. most : the most thumbnails that the lists of members show
    together. with_map : whether the report has a map.
    """
    n_rows, n_clusters = len(members.labels), members.n_clusters
    n_paged = n_rows if n_rows <= most else most // n_clusters
    n_each = min(_MOST, max(_FEWEST, most // (4 * n_clusters)))
    picks = [_pick(members, number, row_keys, n_each) for number in range(n_clusters)]
    map_rows = np.sort(_smallest(row_keys, MAP_ROWS)) if with_map else np.empty(0, np.int64)
    needed = np.zeros(n_rows, bool)
    needed[map_rows] = True
    for number, chosen in enumerate(picks):
        rows = members.of(number)
        needed[rows[: max(n_paged, MONTAGE_ROWS)]] = True
        needed[rows[chosen.all]] = True
    return Selection(picks, n_paged, map_rows, np.flatnonzero(needed))


def _pick(members: Members, number: int, row_keys: NDArray[np.uint64], n_each: int) -> Picks:
    rows = members.of(number)
    in_order = np.arange(min(len(rows), n_each))
    borderline = np.empty(0, np.int64)
    if members.margin is not None and members.runner_up is not None:
        contested = np.flatnonzero(members.runner_up[rows] >= 0)
        borderline = contested[_smallest(members.margin[rows[contested]], n_each)]
    return Picks(in_order, borderline, len(rows) - 1 - in_order, np.sort(_smallest(row_keys[rows], n_each)))


def _smallest(values: NDArray[np.float64] | NDArray[np.uint64], number: int) -> NDArray[np.int64]:
    """Return the indices of the `number` smallest values, the smallest first; of equal values the first one."""
    if number < len(values):
        candidates = np.flatnonzero(values <= np.partition(values, number - 1)[number - 1])
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(values[candidates], kind="stable")][:number].astype(np.int64)


def write_piece(folder: Path, name: str, value: Any) -> None:
    """Write a JSON value to <folder>/data/<name>.js."""
    path = folder / DATA / f"{name}.js"
    text = _to_json(value).replace("<", "\\u003c")
    data = f'bigclusterTake("{name}",{text});\n'.encode("ascii")
    try:
        path.write_bytes(data)
    except FileNotFoundError:  # the first one in its folder
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_members(folder: Path, model: Model, number: int, name: str) -> int:
    """Write all members of a cluster, the nearest first, PAGE_MEMBERS to a file; return the number of files.

    name : the name of the cluster's folder. A row is one of `members`.
    """
    rows = model.members.of(number)
    pages = list(spans(len(rows), PAGE_MEMBERS))
    for page, (start, stop) in enumerate(pages):
        write_piece(folder, f"members/{name}/{page}", members(model, rows[start:stop]))
    return len(pages)


def members(model: Model, rows: NDArray[np.int64]) -> list[tuple[Any, ...]]:
    """Return path, distance, runner-up, margin, width, height and link of images, as JSON values.

    Runner-up and margin are None where there is one cluster only, and the runner-up where all neighbors of an image are
    in its own. `Listed.link` says what the link is.
    """
    of, listed = model.members, model.listed
    none = [None] * len(rows)
    return list(
        zip(
            map(listed.path, rows.tolist()),
            _short(of.distance[rows]),
            none if of.runner_up is None else [None if n < 0 else n for n in of.runner_up[rows].tolist()],
            none if of.margin is None else _short(of.margin[rows]),
            *listed.sizes[rows].T.tolist(),
            map(listed.link, rows.tolist()),
            strict=True,
        )
    )


def _short(numbers: NDArray[np.float64]) -> list[float]:
    """Round to six significant digits, as labels.csv does."""
    return [float(f"{number:.6g}") for number in numbers.tolist()]


def places_of(model: Model) -> NDArray[np.int32]:
    """Return (n_listed,) int32: the place of every file in the list that shows it. Good files come first, then failed.

    The list of a good file is that of its cluster; failed files have one list of their own.
    """
    members = model.members
    places = np.empty(model.n_good + model.listed.n_failed, np.int32)
    places[members.order] = np.arange(model.n_good) - np.repeat(members.starts[:-1], members.sizes)
    places[model.n_good :] = np.arange(model.listed.n_failed)
    return places


def write_failed(folder: Path, model: Model) -> int:
    """Write path, status and reason of every failed file, PAGE_FAILED to a file; return the number of files."""
    pages = list(spans(model.listed.n_failed, PAGE_FAILED))
    for page, (start, stop) in enumerate(pages):
        write_piece(folder, f"failed/{page}", [model.listed.failure(number) for number in range(start, stop)])
    return len(pages)
