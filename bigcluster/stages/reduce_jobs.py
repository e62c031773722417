"""The jobs of the reduction: the fit itself on one worker, and scores of runs of rows on all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any
from uuid import uuid4

import numpy as np

from bigcluster.errors import InvalidDataError
from bigcluster.files.layout import OURS
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.runtime.cluster import Cluster, Local, Part, Worker
from bigcluster.solvers.checkpoint import CheckpointStore
from bigcluster.solvers.pca import PCAFit, fit_pca
from bigcluster.solvers.pca.product_panels import Panel, SavedSums, with_panels
from bigcluster.solvers.pca.products import Sums, TileSums
from bigcluster.solvers.pca.projection import Projection
from bigcluster.solvers.pca.result import ExactSums, Target
from bigcluster.solvers.pca.subspace_jobs import Projected
from bigcluster.solvers.progress import OnProgress, advancing
from bigcluster.solvers.spill import FolderTiles, Tiles
from bigcluster.store import ColumnWriter, Digests, RowWriter, Store
from bigcluster.store.refs import CheckpointsRef, RowsRef, StoreRef
from bigcluster.store.row_source import RowSource

PICTURES, FEATURES = "are the same picture at this size", "have the same features"
"""What is said of rows without variance."""


@dataclass(frozen=True)
class Fitted:
    """What the mark of the reduction stores of a fit, and the digests of the arrays that were written and synced."""

    payload: dict[str, Any]
    digests: Digests


@dataclass(frozen=True)
class FitPCA:
    """Fit all rows and write the results into the store. It takes the sums of `products_in_parts`, where there are
    some in memory."""

    store: StoreRef
    rows: RowsRef
    solver: str
    target: Target
    choices: Mapping[str, Any]
    """What the plan has chosen for the stage."""
    kernel: str
    iterated_power: int
    seed: int
    scratch: str
    """The name of the folder in OUT for what does not fit into memory. Each attempt at this job has a folder in it."""
    square_sum: int | None
    """The sum of all squared values, where the store holds the exact column sums of the rows; otherwise None."""
    described: str
    checkpoints: CheckpointsRef
    """The states that the fit may continue from."""
    scores_later: bool
    """Whether the scores are not written: they are computed from the components, in parts."""
    n_summed: int = 0
    """The number of steps of the fit that summing its products was."""
    saved: SavedSums | None = None
    """The sums of products that are saved, and not among those that it takes."""
    panels: tuple[Panel, ...] = ()
    """The products, where they are in folders of tiles."""
    projected: Projected | None = None
    """What the workers have made of a basis that they extended."""
    on_progress: Local[OnProgress] = field(default_factory=Local, compare=False, repr=False)

    def __call__(self, worker: Worker, products: Sums | None = None) -> Fitted:
        store, rows = self.store.open(worker), self.rows.open(worker)
        scratch = store.out / OURS / self.scratch
        own = FolderTiles(scratch / uuid4().hex)
        tiles = with_panels(own, scratch, self.panels)
        given: Sums | TileSums | None = products
        if self.panels:
            given = reduce(add, (panel.summed for panel in self.panels))
        if self.saved is not None:
            given = self.saved.added_to(products, self.checkpoints.open(worker))
        try:
            fit = self.checkpoints.fit(worker, lambda saved: self._solve(worker, store, rows, tiles, saved, given))
            if fit.total_variance == 0:
                raise InvalidDataError(
                    f"all {rows.shape[0]} good images {self.described}: there is no variance to reduce; use "
                    "--set reduce=none or a larger --size"
                )
            digests = self._write(store, fit)
        finally:
            own.clear()
        store.sync(digests)
        payload = {
            "solver": fit.solver,
            "passes": fit.passes,
            "rank": len(fit.eigenvalues),
            "n_components": _stored_components(fit),
            "total_variance": fit.total_variance,
            "score_step": fit.score_step,
            "components": "stored" if fit.dual_coef_dtype is None else "left",
        }
        return Fitted(payload, digests)

    def _solve(
        self,
        worker: Worker,
        store: Store,
        rows: RowSource,
        tiles: Tiles,
        checkpoints: CheckpointStore,
        products: Sums | TileSums | None,
    ) -> PCAFit:
        moments = None
        if self.square_sum is not None:
            moments = ExactSums(store.load("column_sums"), self.square_sum)
        on_progress = self.on_progress.value
        if on_progress is None and products is not None:  # the process that asks knows the number of steps
            on_progress = advancing(worker.progress, self.n_summed)
        if self.solver == "incremental":
            from bigcluster.solvers.pca.incremental import fit_incremental  # imports dask

            rank = min(self.choices["rank"], *rows.shape)
            return fit_incremental(
                rows,
                target=self.target,
                rank=rank,
                batch_rows=max(rank, min(self.choices["batch_rows"], rows.shape[0])),
                iterated_power=self.iterated_power,
                moments=moments,
                runtime=worker.runtime,
                seed=self.seed,
                on_progress=on_progress,
                checkpoints=checkpoints,
                computing=worker.computing_by_dask,
            )
        return fit_pca(
            self.solver,
            rows,
            target=self.target,
            runtime=worker.runtime,
            workspace_bytes=self.choices["workspace_bytes"],
            tiles=tiles,
            gemm=Gemm(self.kernel),
            seed=self.seed,
            moments=moments,
            on_progress=on_progress,
            checkpoints=checkpoints,
            products=products,
            projected=None if self.projected is None else self.projected.take_from(store.out / OURS / self.scratch),
        )

    def _write(self, store: Store, fit: PCAFit) -> Digests:
        """Write the scores, mean and spectrum, and the components or the vectors from which they can be computed."""
        n_rows, n_features = fit.shape
        digests: Digests = {}
        if not self.scores_later:
            scores = RowWriter(store, "scores", n_rows, _stored_components(fit), np.float32)
            fit.write_scores(scores)
            digests |= scores.close()
        digests |= store.save("mean", fit.mean)
        digests |= store.save("explained_variance", fit.eigenvalues)
        if fit.dual_coef_dtype is not None:
            # Components would cost another read of the features: stages.components computes them when they are needed.
            left = RowWriter(store, "left", n_rows, fit.n_components, fit.dual_coef_dtype)
            fit.write_dual_coef(left)
            digests |= left.close()
        else:
            components = ColumnWriter(store, "components", _stored_components(fit), n_features, np.float32)
            fit.write_components(components)
            digests |= components.close()
        fit.close()
        return digests


def _stored_components(fit: PCAFit) -> int:
    """Return how many components are stored: all of the incremental solver, otherwise those that the target needs."""
    return len(fit.eigenvalues) if fit.solver == "incremental" else fit.n_components


@dataclass(frozen=True)
class ProjectRows:
    """Compute the scores of runs of rows from the stored components, and write them. The units are chunks of rows."""

    store: StoreRef
    rows: RowsRef
    chunk_rows: int
    step: float
    """The grid of the scores."""

    def __call__(self, worker: Worker, part: Part) -> Digests:
        store, rows = self.store.open(worker), self.rows.open(worker)
        vectors = np.ascontiguousarray(store.load("components").T)
        projection = Projection(rows, store.load("mean"), vectors, self.step, worker.runtime)
        span = part.start * self.chunk_rows, min(part.stop * self.chunk_rows, rows.shape[0])
        scores = RowWriter(store, "scores", rows.shape[0], vectors.shape[1], np.float32, span)
        projection.write_scores(scores, span)
        digests = scores.close()
        store.sync(digests)
        return digests


def scores_in_parts(store: Store, rows: RowSource, n_components: int, step: float, cluster: Cluster) -> Digests:
    """Compute and write the scores of all rows on all workers; return the digests of their chunks."""
    chunk_rows = RowWriter.create(store, "scores", rows.shape[0], n_components, np.float32)
    job = ProjectRows(StoreRef.of(store), RowsRef.of(rows), chunk_rows, step)
    digests: Digests = {}
    for written in cluster.spread(job, cluster.parts(-(-rows.shape[0] // chunk_rows))):
        digests |= written
    return digests
