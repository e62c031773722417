"""Prints the iterations of a fit where `verbose` is set; no other module of the library prints."""

from __future__ import annotations

from bigcluster.solvers.kmeans import KMeansFit
from bigcluster.solvers.progress import FitProgress


class Reporter:
    """A progress listener that prints each iteration, as scikit-learn does with `verbose`."""

    def __init__(self) -> None:
        self._last: FitProgress | None = None

    def __call__(self, progress: FitProgress) -> None:
        if self._last is None:
            print("Initialization complete.")
        print(f"Iteration {progress.done}, inertia {progress.inertia:.6g}, {progress.moved_rows} rows moved.")
        self._last = progress

    def end(self, result: KMeansFit, tol: float) -> None:
        """Print how the fit ended. tol : as the caller gave it."""
        if not result.converged:
            print(f"Stopped after {result.n_iter} iterations.")
        elif self._last is not None and self._last.moved_rows == 0:
            print(f"Converged after {result.n_iter} iterations: strict convergence, no row moved.")
        else:
            print(f"Converged after {result.n_iter} iterations: the center shift is within tolerance {tol:g}.")
