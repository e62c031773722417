"""NaN and infinity in float data: refused by the number of the row, wherever rows are looked at first."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import InvalidDataError

_REMEDY = "holds NaN or infinity; remove the row or fill its gaps"


def refuse_bad_rows(x: NDArray[Any], first: int, fault: str = _REMEDY) -> None:
    """Raise InvalidDataError where x, (n_rows, n_columns), holds NaN or infinity. first : its first row's number."""
    if not np.issubdtype(x.dtype, np.floating):
        return
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise InvalidDataError(f"row {first + int(np.argmin(finite))} {fault}")
