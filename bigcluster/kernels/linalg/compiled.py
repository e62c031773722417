"""Our own C (native/*.c) as a library, made by native/build.py when bigcluster is installed."""

from __future__ import annotations

import hashlib
from ctypes import CDLL, addressof, c_char, c_int64, c_void_p, string_at
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import InstallationError

NATIVE = Path(__file__).with_name("native")
LIBRARY = NATIVE / "compiled.so"

_REPAIR = "install bigcluster again, with a C compiler at hand"
_SIZES = {
    "two_least": (8, 5),
    "spread": (7, 2),
    "pack": (3, 5),
    "add_product": (4, 5),
    "pixel_sums": (3, 2),
    "add_scaled": (3, 3),
    "float_product": (4, 12),
}
"""Arrays, and after them whole numbers, that each function takes."""


@cache
def library() -> CDLL:
    """Raises InstallationError where the library is missing, or was made from other sources."""
    try:
        loaded = CDLL(str(LIBRARY))
        made_from = string_at(addressof(c_char.in_dll(loaded, "made_from"))).decode()
    except (OSError, ValueError) as error:
        raise InstallationError(f"{LIBRARY} cannot be loaded ({error}); {_REPAIR}") from error
    sources = sorted(NATIVE.glob("*.c"))
    if made_from != hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest():
        names = ", ".join(source.name for source in sources)
        raise InstallationError(f"{LIBRARY} was made from another {names}; {_REPAIR}")
    for name, (arrays, numbers) in _SIZES.items():
        function = getattr(loaded, name)
        function.restype = None
        function.argtypes = [c_void_p] * arrays + [c_int64] * numbers
    for known in (loaded.panels_known, loaded.floats_known, loaded.float_scratch):
        known.restype = c_int64
        known.argtypes = []
    return loaded


def address(array: NDArray[Any], dtype: type[np.generic]) -> int:
    """Where a C-contiguous array of this type begins."""
    assert array.dtype == dtype, (array.dtype, dtype)
    assert array.flags.c_contiguous
    begin: int = array.__array_interface__["data"][0]
    return begin
