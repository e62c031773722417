"""This module is the cluster of one process: the process that asks also does the work, with all its threads."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import reduce
from typing import Any, Generic

from bigcluster.runtime.cluster import Handle, Job, Part, Result, Worker, cut


class Value(Generic[Result]):
    """A result that is in this process already. It is no longer held here once it was taken."""

    def __init__(self, result: Result) -> None:
        self._results = [result]

    def take(self) -> Result:
        """Return the result."""
        return self._results.pop()


class Embedded:
    """A `Cluster` without other processes. A pass is one part, so nothing is merged and nothing is sent."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @property
    def n_workers(self) -> int:
        """One: this process."""
        return 1

    def parts(self, n_units: int, per_worker: int = 4) -> list[Part]:
        """Return one part, or none where there are no units."""
        del per_worker  # one after the other in one process, several parts would take longer than one
        return cut(n_units, 1)

    def spread(self, job: Job[Result], parts: Sequence[Part]) -> Generator[Result, None, None]:
        """Yield the results in the order of the parts, as `Cluster.spread` says."""
        for part in parts:
            yield job(self._worker, part)

    def merged(
        self, job: Job[Result], parts: Sequence[Part], merge: Callable[[Result, Result], Result]
    ) -> Handle[Result]:
        """Return the merged result of the parts, as `Cluster.merged` says."""
        if not parts:
            raise ValueError("there are no parts to merge")
        return Value(reduce(merge, self.spread(job, parts)))

    def once(self, job: Callable[..., Result], *handles: Handle[Any]) -> Result:
        """Run one job, as `Cluster.once` says."""
        return job(self._worker, *(handle.take() for handle in handles))
