"""Which solver suits which data. The budget has no say: it decides where tiles live, never the arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from bigcluster.solvers.pca.result import Components, Target

GRAM_ROWS = 16_384  # the multiplication grows with the square of the rows, and G in tiles is 512 MiB here
COVARIANCE_COLUMNS = 8_192


@dataclass(frozen=True)
class Choice:
    """solver : "gram", "covariance" or "subspace"; reason : one clause for a person."""

    solver: str
    reason: str


def choose(n_rows: int, n_columns: int, target: Target) -> Choice:
    """The solver by the shape of the data; `target` breaks no tie today, but is part of what may.

    n_rows : listed rows, so that a damaged file does not change the solver.
    """
    wanted = f"{target.n} components" if isinstance(target, Components) else f"a variance of {target.share:g}"
    shape = f"{n_rows:,} rows of {n_columns:,} values, {wanted}"
    if n_columns <= COVARIANCE_COLUMNS and n_columns < n_rows:
        return Choice("covariance", f"{shape}: the {n_columns:,} x {n_columns:,} covariance is the smaller product")
    if n_rows <= GRAM_ROWS:
        return Choice("gram", f"{shape}: the {n_rows:,} x {n_rows:,} Gram matrix is exact for any rank")
    return Choice("subspace", f"{shape}: too many of both for one exact product; streamed block iteration")
