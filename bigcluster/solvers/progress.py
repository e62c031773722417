"""How a fit tells its caller how far it has come: one event type and one listener type for all solvers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bigcluster.runtime.events import Progress


@dataclass(frozen=True)
class FitProgress:
    """What a solver reports after each step of a fit.

    done : number of finished steps: blocks of a product or of a basis in PCA, iterations in k-means.
    total : number of steps of the whole fit; None where the data decides it, as in k-means.
    inertia : k-means only: the inertia of the best restart after its centers moved; NaN in PCA.
    moved_rows : k-means only: the number of rows that changed their cluster, over all restarts; 0 in PCA.
    A resumed fit first reports the steps that were done before it.
    """

    done: int
    total: int | None = None
    inertia: float = math.nan
    moved_rows: int = 0


OnProgress = Callable[[FitProgress], None]


def counting(progress: Progress, done: int = 0) -> Callable[[int], None]:
    """Return a function that takes how much is done, and counts it in the progress of a worker. done : is counted."""

    def at(now: int) -> None:
        nonlocal done
        progress.advance(max(0, now - done))
        done = max(done, now)

    return at


def advancing(progress: Progress, done: int = 0) -> OnProgress:
    """Return a listener that counts the steps of a fit in the progress of a worker. done : steps that are counted."""
    at = counting(progress, done)
    return lambda fit: at(fit.done)


class StepCounter:
    """Counts the finished steps of a fit whose number is estimated at its start, and reports each to a listener."""

    def __init__(self, total: int, listener: OnProgress | None, done: int = 0) -> None:
        """done : the steps that were made before."""
        self._done = done
        self._total = total
        self._listener = listener

    def step(self) -> None:
        """Count one step. Steps that were not estimated stay below the total, which only `finish` reaches."""
        self._done = min(self._done + 1, self._total - 1)
        self._report()

    def finish(self) -> None:
        """Report that all steps are done."""
        self._done = self._total
        self._report()

    def _report(self) -> None:
        if self._listener is not None:
            self._listener(FitProgress(self._done, self._total))
