"""Clusters for tests: one cuts passes at random and sends as bytes what a real one sends between processes."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise
from typing import Any

from bigcluster.config import Settings
from bigcluster.runtime.cluster import Handle, Job, Part, Result, Worker
from bigcluster.runtime.embedded import Embedded, Value
from bigcluster.runtime.events import Progress
from bigcluster.runtime.threads import EmbeddedRuntime
from bigcluster.stages.context import Context
from bigcluster.store import Store


def context_of(store: Store, *, threads: int = 2, cluster: Any = None) -> Context:
    """The argument of a stage that runs in this process."""
    runtime, progress = EmbeddedRuntime(threads), Progress()
    embedded = Embedded(Worker(runtime, 1 << 30, progress))
    return Context(store, Settings(), runtime, progress, cluster or embedded)


class Sent(Embedded):
    """Some workers with nothing in common, among which jobs, arguments and results go as bytes.

    Passes are cut at random, parts go to random workers, results are merged in a random tree, and what a worker keeps
    may vanish: no result may depend on it.
    """

    def __init__(self, seed: int = 0, *, n_workers: int = 3, threads: int = 1, in_children: bool = False) -> None:
        self.workers = [
            Worker(EmbeddedRuntime(threads), 1 << 30, decodes_in_children=in_children) for _ in range(n_workers)
        ]
        super().__init__(self.workers[0])
        self._random = random.Random(seed)
        self.jobs: list[str] = []
        """The class or the name of the job of each task, in the order in which they ran."""
        self.largest_bytes = 0
        """The largest job with its arguments, as bytes."""
        self.result_bytes: dict[str, int] = {}
        """By job, the largest result as bytes."""

    @property
    def n_workers(self) -> int:
        return len(self.workers)

    def parts(self, n_units: int, per_worker: int = 4) -> list[Part]:
        inner = range(1, n_units)
        edges = sorted(self._random.sample(inner, self._random.randint(0, len(inner)))) if n_units > 1 else []
        edges = [0, *edges, n_units] if n_units else [0]
        return [Part(index, *edge) for index, edge in enumerate(pairwise(edges))]

    def spread(self, job: Job[Result], parts: Sequence[Part]) -> Generator[Result, None, None]:
        for part in parts:
            yield self._run(job, part)

    def merged(
        self, job: Job[Result], parts: Sequence[Part], merge: Callable[[Result, Result], Result]
    ) -> Handle[Result]:
        if not parts:
            raise ValueError("there are no parts to merge")
        found = [self._run(job, part) for part in self._random.sample(parts, len(parts))]
        while len(found) > 1:
            at = self._random.randrange(len(found) - 1)
            before = pickle.dumps(found[at : at + 2])
            merged = sent_away(merge)(*found[at : at + 2])
            assert pickle.dumps(found[at : at + 2]) == before, "a merge changes its arguments"
            found[at : at + 2] = [merged]
        return Value(found[0])

    def once(self, job: Callable[..., Result], *handles: Handle[Any]) -> Result:
        return self._run(job, *(handle.take() for handle in handles))

    def _run(self, job: Callable[..., Result], *arguments: Any) -> Result:
        name = getattr(job, "__name__", type(job).__name__)
        self.jobs.append(name)
        sent = pickle.dumps((job, arguments))
        self.largest_bytes = max(self.largest_bytes, len(sent))
        worker = self._random.choice(self.workers)
        if self._random.random() < 0.2:
            worker.forget()
        job, arguments = pickle.loads(sent)  # noqa: S301 (our own bytes)
        result = pickle.dumps(job(worker, *arguments))
        self.result_bytes[name] = max(self.result_bytes.get(name, 0), len(result))
        return pickle.loads(result)  # noqa: S301 (our own bytes)


def sent_away(value: Any) -> Any:
    """The value as another process gets it."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (our own bytes)
