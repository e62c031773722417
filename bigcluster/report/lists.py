"""Lists that are too long for a page: JSON in script files, loaded piece by piece.

A page opened from disk may not fetch, but it may add a script. Each file calls one function with its name and plain
JSON, in ASCII and without `<`: whatever a file name holds, it stays a string.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.report.model import LINK_OF_ITS_NAME, NO_LINK, Model
from bigcluster.report.picks import PAGE_MEMBERS
from bigcluster.rows import spans

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
