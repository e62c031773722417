"""Scores -> how well every k of a range would do, in shared passes; the store keeps the table and the centers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.config import Settings
from bigcluster.planning import StagePlan
from bigcluster.progress import Progress
from bigcluster.runtime import Runtime
from bigcluster.solvers.kmeans import sweep as sweep_rows
from bigcluster.stages.reduce import Reduced
from bigcluster.store import StageState, Store, StoredRows, fingerprint

STAGE = "sweep"


@dataclass(frozen=True)
class Swept:
    """One row per k, and what they suggest."""

    fingerprint: str
    rows: list[dict[str, Any]]
    """k, inertia, silhouette, silhouette_sq, smallest, largest, stability, n_iter, start; ascending k."""
    suggested_k: int | None
    reason: str
    """Why that k; or, in plain words, that there is no clear elbow."""
    reused: bool
    facts: dict[str, Any]

    @property
    def best_silhouette_k(self) -> int:
        """The k of the largest exact silhouette; the smaller one of two."""
        return int(max(self.rows, key=lambda row: (row["silhouette_sq"], -row["k"]))["k"])

    @property
    def chosen_k(self) -> int:
        """The suggestion; without one, the k of the best silhouette."""
        return self.best_silhouette_k if self.suggested_k is None else self.suggested_k


def sweep(
    store: Store,
    reduced: Reduced,
    settings: Settings,
    ks: tuple[int, ...],
    plan: StagePlan,
    keys: NDArray[np.uint64],
    runtime: Runtime,
    progress: Progress,
) -> Swept:
    """Bring the sweep of these k up to date. keys : (n_ok,) what randomness is keyed by."""
    wanted = fingerprint(
        before=reduced.fingerprint,
        stage=STAGE,
        ks=ks,
        seed=settings.seed,
        kmeans=asdict(settings.kmeans),
        starts="race",
    )
    mark, saving = store.mark(STAGE), StageState(store, STAGE, wanted)
    reused = mark is not None and mark.fingerprint == wanted
    if mark is None or not reused:
        store.marks.remove(STAGE)
        with progress.stage(STAGE, settings.kmeans.max_iter, "iterations"):
            found = sweep_rows(
                reduced.rows,
                ks,
                seed=settings.seed,
                row_keys=keys,
                n_init=max(2, settings.kmeans.n_init),  # stability compares two starts
                max_iter=settings.kmeans.max_iter,
                tol=settings.kmeans.tol,
                runtime=runtime,
                workspace_bytes=plan.choices["workspace_bytes"],
                on_progress=lambda event: progress.at(event.iteration),
                saving=saving,
            )
        digests = store.save("sweep_centers", np.vstack([row.centers for row in found.rows]))
        rows = [{name: value for name, value in vars(row).items() if name != "centers"} for row in found.rows]
        if found.reason:
            progress.warn(found.reason)
        mark_payload = {
            "rows": rows,
            "of": reduced.fingerprint,
            "suggested_k": found.suggestion.k,
            "reason": found.suggestion.reason,
            "facts": {"solver": "lloyd", "passes": found.passes, "bytes_read": found.bytes_read},
        }
        mark = store.commit(STAGE, wanted, digests, mark_payload)
    else:
        progress.reused(STAGE)
    saving.clear()
    payload: dict[str, Any] = mark.payload
    return Swept(wanted, payload["rows"], payload["suggested_k"], payload["reason"], reused, payload["facts"])


def centers_of(store: Store, swept: Swept, k: int) -> NDArray[np.float64]:
    """(k, n_components) the centers that the sweep ended with for one k."""
    first = 0
    for row in swept.rows:
        if row["k"] == k:
            return StoredRows(store.array("sweep_centers")).read(first, first + k)
        first += row["k"]
    raise ValueError(f"k = {k} was not swept")
