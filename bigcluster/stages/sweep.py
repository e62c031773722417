"""This stage fits every k of a range in shared passes over the scores, and stores the table and the centers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import SWEEP
from bigcluster.stages.cluster_jobs import Saving, sweep_on_cluster
from bigcluster.stages.context import Context
from bigcluster.stages.reduce import Reduced
from bigcluster.store import Mark, StageCheckpoints, Store, StoredRows, fingerprint

FEWEST_CLUSTERS = 2
"""The smallest useful number of clusters. A range that starts here has left out no smaller one."""


@dataclass(frozen=True)
class Verdict:
    """The table of a sweep, one row for each k, and the k that it suggests."""

    rows: list[dict[str, Any]]
    """One dict for each k, ascending. Its keys are k, inertia, simplified_silhouette, silhouette_sq, smallest, largest,
    stability, n_iter and start."""
    suggested_k: int | None
    reason: str
    """The reason for that k, or a sentence that there is no clear elbow."""

    @property
    def best_silhouette_sq_k(self) -> int:
        """The k with the largest silhouette_sq; of equal ones, the smallest k."""
        return int(max(self.rows, key=lambda row: (row["silhouette_sq"], -row["k"]))["k"])

    @property
    def chosen_k(self) -> int:
        """The suggested k, or the k with the largest silhouette_sq where there is no suggestion."""
        return self.best_silhouette_sq_k if self.suggested_k is None else self.suggested_k

    @property
    def chosen(self) -> dict[str, Any]:
        """The row of the chosen k."""
        return next(row for row in self.rows if row["k"] == self.chosen_k)

    @property
    def why(self) -> str:
        """One sentence that names the elbow, or says that there is none and which value decides instead."""
        if self.suggested_k is not None:
            return self.reason
        largest = f"{self.chosen['silhouette_sq']:.5g}"
        return f"{self.reason}; the largest silhouette_sq of the table, {largest}, is at k = {self.chosen_k}"

    @property
    def caveats(self) -> list[str]:
        """Sentences of caution about the chosen k: it is an end of the range, or there is a cluster of one image."""
        row, ks = self.chosen, [row["k"] for row in self.rows]
        k, caveats = row["k"], []
        if len(ks) > 1 and (k == ks[-1] or (k == ks[0] and k > FEWEST_CLUSTERS)):
            end, other = ("largest", "larger") if k == ks[-1] else ("smallest", "smaller")
            caveats.append(f"k = {k} is the {end} of the range: a {other} one, outside of it, may do better")
        if row["smallest"] == 1 and k > 1:
            caveats.append(f"with k = {k} there is a cluster of a single image: an outlier, or k is too large")
        return caveats


def verdict_of(mark: Mark) -> Verdict:
    """Return the verdict in the mark of a sweep. Earlier versions called the simplified silhouette `silhouette`."""
    names = {"silhouette": "simplified_silhouette"}
    rows = [{names.get(name, name): value for name, value in row.items()} for row in mark.payload["rows"]]
    return Verdict(rows, mark.payload["suggested_k"], mark.payload["reason"])


@dataclass(frozen=True)
class Swept(Verdict):
    """A verdict that is up to date with the scores and the settings."""

    fingerprint: str
    reused: bool
    facts: dict[str, Any]


def sweep(context: Context, reduced: Reduced, ks: tuple[int, ...], plan: StagePlan, keys: NDArray[np.uint64]) -> Swept:
    """Bring the sweep of these k up to date with the scores and the settings, and return it.

    ks : ascending. keys : (n_ok,) uint64, the keys of random numbers.
    """
    store, settings, progress = context.store, context.settings, context.progress
    expected = fingerprint(
        before=reduced.fingerprint,
        stage=SWEEP,
        ks=ks,
        seed=settings.seed,
        kmeans=asdict(settings.kmeans),
        starts="race",
    )
    mark, checkpoints = store.mark(SWEEP), StageCheckpoints(store, SWEEP, expected)
    reused = mark is not None and mark.fingerprint == expected
    if mark is None or not reused:
        store.marks.remove(SWEEP)
        with progress.stage(SWEEP, settings.kmeans.max_iter, "iterations"):
            options = {
                "seed": settings.seed,
                "n_init": max(2, settings.kmeans.n_init),  # stability compares two starts
                "max_iter": settings.kmeans.max_iter,
                "tol": settings.kmeans.tol,
                "workspace_bytes": plan.choices["workspace_bytes"],
            }
            saving = Saving.of(keys, checkpoints, lambda fit: progress.at(fit.done))
            solved = checkpoints.resume_or_restart(
                lambda: sweep_on_cluster(
                    context.cluster, context.runtime, reduced.rows, ks, options, saving, exact=reduced.exact
                ),
                progress.warn,
            )
        digests = store.save("sweep_centers", np.vstack([row.centers for row in solved.rows]))
        rows = [{name: value for name, value in vars(row).items() if name != "centers"} for row in solved.rows]
        if solved.reason:
            progress.warn(solved.reason)
        mark_payload = {
            "rows": rows,
            "of": reduced.fingerprint,
            "suggested_k": solved.suggestion.k,
            "reason": solved.suggestion.reason,
            "facts": {"solver": "lloyd", "passes": solved.passes, "bytes_read": solved.bytes_read},
        }
        mark = store.commit(SWEEP, expected, digests, mark_payload)
    else:
        progress.reused(SWEEP)
    checkpoints.clear()
    verdict = verdict_of(mark)
    return Swept(verdict.rows, verdict.suggested_k, verdict.reason, expected, reused, mark.payload["facts"])


def centers_of(store: Store, swept: Swept, k: int) -> NDArray[np.float64]:
    """Return the centers that the sweep found for one k, (k, n_components). Raises ValueError for another k."""
    first = 0
    for row in swept.rows:
        if row["k"] == k:
            return StoredRows(store.array("sweep_centers")).read(first, first + k)
        first += row["k"]
    raise ValueError(f"k = {k} was not swept")
