"""What `verbose` prints, the one place of the library that prints: the caller asks for it, as of scikit-learn."""

from __future__ import annotations

from bigcluster.solvers.kmeans import KMeansFit
from bigcluster.solvers.progress import FitProgress


class Told:
    """Prints what a fit does."""

    def __init__(self) -> None:
        self._last: FitProgress | None = None

    def __call__(self, progress: FitProgress) -> None:
        if self._last is None:
            print("Initialization complete.")
        print(f"Iteration {progress.done}, inertia {progress.inertia:.6g}, {progress.moved_rows} rows moved.")
        self._last = progress

    def end(self, result: KMeansFit, tol: float) -> None:
        if not result.converged:
            print(f"Stopped after {result.n_iter} iterations.")
        elif self._last is not None and self._last.moved_rows == 0:
            print(f"Converged after {result.n_iter} iterations: strict convergence, no row moved.")
        else:
            print(f"Converged after {result.n_iter} iterations: the center shift is within tolerance {tol:g}.")
