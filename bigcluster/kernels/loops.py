"""Loops that would be many passes for numpy, in C (native/loops.c). They let go of the interpreter's lock."""

from __future__ import annotations

import hashlib
from ctypes import CDLL, addressof, c_char, c_int64, c_void_p, string_at
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import InstallationError

SOURCE = Path(__file__).with_name("native") / "loops.c"
LIBRARY = SOURCE.with_suffix(".so")
"""Made from SOURCE by native/build.py when bigcluster is installed."""

_REPAIR = "install bigcluster again, with a C compiler at hand"
_SIZES = {"two_least": (8, 5), "spread": (7, 2)}  # arrays and whole numbers that each loop takes

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]


@cache
def _library() -> CDLL:
    try:
        library = CDLL(str(LIBRARY))
        made_from = string_at(addressof(c_char.in_dll(library, "made_from"))).decode()
    except (OSError, ValueError) as error:
        raise InstallationError(f"{LIBRARY} cannot be loaded ({error}); {_REPAIR}") from error
    if made_from != hashlib.sha256(SOURCE.read_bytes()).hexdigest():
        raise InstallationError(f"{LIBRARY} was made from another {SOURCE.name}; {_REPAIR}")
    for name, (arrays, numbers) in _SIZES.items():
        function = getattr(library, name)
        function.restype = None
        function.argtypes = [c_void_p] * arrays + [c_int64] * numbers
    return library


def _address(array: NDArray[Any], dtype: type[np.generic]) -> int:
    assert array.dtype == dtype, (array.dtype, dtype)
    assert array.flags.c_contiguous
    address: int = array.__array_interface__["data"][0]
    return address


def two_least(
    score: Floats32,
    add: Floats32,
    ends: Longs,
    reach: Floats32,
    start: int,
    barred: Ints,
    label: Ints,
    close: Ints,
    n_close: Longs,
) -> None:
    """For each of some sets of centers: who is nearest to each row of a tile, and which rows are too close to call.

    score + add[:, None] : (k of all sets, n), to the rows start .. start + n - 1 of a block. ends : (n_sets + 1,) where
    each set begins, and the last ends. reach : (n_sets,) how far off the second least must be. barred : (n_sets or 1,
    block) a center of the set that does not count, -1 for none.
    Fills label : (n_sets, block), from 0 in each set, and appends block rows to close : (n_sets, block), of which the
    first n_close : (n_sets,) are taken.
    """
    _library().two_least(
        *(_address(array, np.float32) for array in (score, add)),
        _address(ends, np.int64),
        _address(reach, np.float32),
        *(_address(array, np.int32) for array in (barred, label, close)),
        _address(n_close, np.int64),
        *(len(reach), len(barred), label.shape[1], start, score.shape[1]),
    )


def spread(
    x: Floats, starts: Longs, targets: Longs, factors: Floats, sums: Floats, weights: Floats, counts: Longs
) -> None:
    """Add row i of `x`, times its factors, to its targets: those at starts[i] .. starts[i + 1] - 1.

    x : (n, n_columns). starts : (n + 1,). targets, factors : (starts[n],). sums : (n_targets, n_columns), weights,
    counts : (n_targets,), added to row after row, in order.
    """
    _library().spread(
        _address(x, np.float64),
        *(_address(array, np.int64) for array in (starts, targets)),
        *(_address(array, np.float64) for array in (factors, sums, weights)),
        _address(counts, np.int64),
        *x.shape,
    )
