"""The protocol by which the loader gets the features of a picture that it has just decoded."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class RowFeatures(Protocol):
    """Gives every listed row its features. Decoding threads call it at the same time."""

    def fill(self, row: int, view: NDArray[np.uint8] | None, out: NDArray[Any]) -> str:
        """Write the features of a listed row to `out`, (n_row_values,).

        view : (height, width, n_channels), the second picture of the decode; None where the spec has no view.
        Returns "" or, in one line, why the row has no finite features; then the content of `out` is not used.
        """
