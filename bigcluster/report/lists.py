"""Which images get a small picture: some of every cluster, members while there is room, the sample of the map.

Lists that are too long for a page: JSON in script files, loaded piece by piece.

A page opened from disk may not fetch, but it may add a script. Each file calls one function with its name and plain
JSON, in ASCII and without `<`: whatever a file name holds, it stays a string.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.report.model import LINK_OF_ITS_NAME, NO_LINK, Members, Model
from bigcluster.store.row_source import spans

PAGE_MEMBERS = 200
"""Members on one page of a cluster's list, pictures in one sprite."""
MONTAGE_ROWS = 8
MONTAGE_CLUSTERS = 1000
"""Columns of the montage: with more, the page itself would grow past a megabyte."""
MAP_ROWS = 10_000
_FEWEST, _MOST = 4, 24

Positions = NDArray[np.int64]
"""Places in a cluster's order of distance: 0 is the nearest to the center."""


@dataclass(frozen=True)
class Picks:
    """What a cluster's page shows of it. The nearest one is also the medoid: the member whose squared distances to all
    others have the smallest sum is the one nearest to their mean."""

    nearest: Positions
    borderline: Positions
    """Smallest margin first."""
    farthest: Positions
    sample: Positions

    @property
    def all(self) -> Positions:
        return np.unique(np.concatenate([self.nearest, self.borderline, self.farthest, self.sample]))


@dataclass(frozen=True)
class Selection:
    """Rows are good rows."""

    picks: Sequence[Picks]
    n_paged: int
    """Members of every cluster, nearest first, whose pictures its list shows."""
    map_rows: NDArray[np.int64]
    rows: NDArray[np.int64]
    """All rows that need a picture, ascending."""

    def shows_all(self, members: Members) -> bool:
        """Whether every image has its picture."""
        return self.n_paged >= int(members.sizes.max())


def select(members: Members, row_keys: NDArray[np.uint64], most: int, *, with_map: bool) -> Selection:
    """Choose by distance, margin and row_keys alone. most : of the pictures that members' lists show.

    row_keys : (n_ok,) hashes of the paths. The smallest make a random sample that neither order nor seed changes.
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
    if members.margin is not None:
        borderline = _smallest(members.margin[rows], n_each)
    return Picks(in_order, borderline, len(rows) - 1 - in_order, np.sort(_smallest(row_keys[rows], n_each)))


def _smallest(values: NDArray[np.float64] | NDArray[np.uint64], number: int) -> NDArray[np.int64]:
    """Where the smallest values are, smallest first; of equal ones the first."""
    if number < len(values):
        candidates = np.flatnonzero(values <= np.partition(values, number - 1)[number - 1])
    else:
        candidates = np.arange(len(values))
    return candidates[np.argsort(values[candidates], kind="stable")][:number].astype(np.int64)


DATA = "data"
PAGE_FAILED = 500


def write_piece(folder: Path, name: str, value: Any) -> None:
    """report/data/<name>.js."""
    path = folder / DATA / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    path.write_text(f'bigclusterTake("{name}",{text});\n', encoding="ascii")


def write_members(folder: Path, model: Model, number: int, name: str) -> int:
    """All members of a cluster, nearest first, PAGE_MEMBERS to a file; returns how many files.

    A row: path, distance, runner-up, margin, width, height, link. The link is 1 where the entry under clusters/ has the
    file's own name, 0 where there is none, else its URL below clusters/.
    """
    rows = model.members.of(number)
    pages = list(spans(len(rows), PAGE_MEMBERS))
    for page, (start, stop) in enumerate(pages):
        write_piece(folder, f"members/{name}/{page}", [member(model, row) for row in rows[start:stop].tolist()])
    return len(pages)


def member(model: Model, row: int) -> list[Any]:
    members, listed = model.members, model.listed
    one = members.runner_up is None or members.margin is None
    return [
        listed.paths[row],
        short(members.distance[row]),
        None if one else int(members.runner_up[row]),  # type: ignore[index]
        None if one else short(members.margin[row]),  # type: ignore[index]
        *(int(n) for n in listed.sizes[row]),
        link_of(model, row),
    ]


def link_of(model: Model, row: int) -> int | str:
    kind = model.listed.link_kinds[row]
    return kind if kind in (NO_LINK, LINK_OF_ITS_NAME) else model.listed.links[row]


def short(number: float) -> float:
    """As labels.csv has it: six significant digits."""
    return float(f"{number:.6g}")


def places_of(model: Model) -> NDArray[np.int32]:
    """(n_listed,) the place of every row in the list that shows it: good rows first, then failed ones."""
    members = model.members
    places = np.empty(model.n_good + model.listed.n_failed, np.int32)
    places[members.order] = np.arange(model.n_good) - np.repeat(members.starts[:-1], members.sizes)
    places[model.n_good :] = np.arange(model.listed.n_failed)
    return places


def write_failed(folder: Path, model: Model) -> int:
    """path, status and reason of every failed file; returns how many files."""
    paths, statuses, reasons = model.listed.failed
    pages = list(spans(model.listed.n_failed, PAGE_FAILED))
    for page, (start, stop) in enumerate(pages):
        write_piece(folder, f"failed/{page}", [[paths[i], statuses[i], reasons[i]] for i in range(start, stop)])
    return len(pages)
