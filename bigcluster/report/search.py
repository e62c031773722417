"""The search for files by the beginning of their names, over all listed files.

Names are sorted and cut into pieces; a small index holds the first name of each piece. A page loads the index, then the
one or two pieces that can hold names with the given beginning.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from bigcluster.report.lists import places_of, write_piece
from bigcluster.report.model import Listed, Model
from bigcluster.report.texts import file_name

PIECE_ROWS = 1500
"""Names in one piece, about. Chosen, not measured."""
_SAMPLES_PER_PIECE = 32
"""Names per piece that the sample sort draws: pieces get nearly equal lengths. Chosen, not measured."""
FAILED = -1
"""The label of a file that could not be read, as in labels.csv."""


def folded(name: str) -> str:
    """Return a name in the form that is compared: in lower case, with composed letters. report.js has the same rule."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name.lower())


def _key(path: str) -> tuple[bytes, str]:
    """The sort key of a path: its name in UTF-16 units, as JavaScript compares strings; equal names by their path."""
    return folded(file_name(path)).encode("utf-16-be"), path


def write_search(folder: Path, model: Model) -> int:
    """Write the pieces and their index; return the number of pieces.

    A row of a piece is the path, the label of its cluster (FAILED for a failed file), and its place in its list.
    """
    labels = np.concatenate([model.members.labels, np.full(model.listed.n_failed, FAILED, np.int32)])
    places, index = places_of(model), list[str]()
    for number, (paths, rows) in enumerate(_sorted_pieces(model.listed)):
        piece = list(zip(paths, labels[rows].tolist(), places[rows].tolist(), strict=True))
        write_piece(folder, f"search/{number}", piece)
        index.append(folded(file_name(paths[0])))
    write_piece(folder, "search/index", index)
    return len(index)


def _sorted_pieces(listed: Listed) -> Iterator[tuple[list[str], list[int]]]:
    """Yield paths and rows in order of their names, in pieces of about PIECE_ROWS. Failed files are after good rows.

    This is a sample sort: only one piece at a time is held as strings.
    """
    n_good, n_rows = len(listed.paths), len(listed.paths) + listed.n_failed

    def path_of(row: int) -> str:
        return listed.path(row) if row < n_good else listed.failure(row - n_good)[0]

    n_pieces = -(-n_rows // PIECE_ROWS)
    step = max(1, n_rows // (n_pieces * _SAMPLES_PER_PIECE))
    sample = sorted(_key(path_of(row)) for row in range(0, n_rows, step))
    cuts = [sample[len(sample) * i // n_pieces] for i in range(1, n_pieces)]
    paths = chain(listed.paths, map(path_of, range(n_good, n_rows)))
    piece_of = np.fromiter((bisect_right(cuts, _key(path)) for path in paths), np.int32, n_rows)
    in_pieces = np.argsort(piece_of, kind="stable")
    edges = np.concatenate([[0], np.cumsum(np.bincount(piece_of, minlength=n_pieces))]).tolist()
    for start, stop in pairwise(edges):
        if stop > start:
            keyed = sorted((*_key(path_of(row)), row) for row in in_pieces[start:stop].tolist())
            yield [path for _, path, _ in keyed], [row for _, _, row in keyed]
