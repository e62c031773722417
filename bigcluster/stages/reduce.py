"""This stage computes PCA scores from the features. The spectrum of one fit says how many components reach the
variance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.config import MANIFOLDS, Settings
from bigcluster.errors import StoreError, VarianceNotReachedError
from bigcluster.files.durable import unfinished_name
from bigcluster.files.layout import OURS
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import MANIFOLD, REDUCE
from bigcluster.planning.stages import target_of
from bigcluster.runtime.cluster import Local
from bigcluster.solvers.pca.product_panels import products_in_parts
from bigcluster.solvers.pca.subspace_jobs import ExtendBasis, Streamed, extend_on_workers
from bigcluster.solvers.progress import FitProgress
from bigcluster.solvers.spill import FolderTiles
from bigcluster.solvers.unit_length import UnitLengthRows
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features, is_unit_length
from bigcluster.stages.ingest import Ingested
from bigcluster.stages.reduce_jobs import FEATURES, PICTURES, FitPCA, scores_in_parts
from bigcluster.store import Digests, Mark, StageCheckpoints, Store, StoredRows, fingerprint
from bigcluster.store.refs import CheckpointsRef, RowsRef, StoreRef
from bigcluster.store.row_source import FirstColumns, RowSource


@dataclass(frozen=True)
class Reduced:
    """The rows that are clustered."""

    fingerprint: str
    rows: RowSource
    """The scores, (n_ok, n_components) float32, or the features themselves."""
    n_components: int
    explained_variance_ratio: NDArray[np.float64] | None
    """The share of the total variance of each component, (n_computed,). It is None where nothing was reduced."""
    reused: bool
    facts: dict[str, Any]
    """Values for summary.json: the solver, passes, bytes read, and the choices that the budget decided."""

    @property
    def exact(self) -> bool:
        """Whether sums of rows have no rounding: the values are integers, or scores on their grid."""
        if self.rows.dtype == np.uint8:
            return True
        return bool(self.facts.get("score_step", 0)) and not isinstance(self.rows, UnitLengthRows)


def reduce(context: Context, features: Features, ingested: Ingested, plan: StagePlan | None) -> Reduced:
    """Bring the scores up to date with the features and the settings, and return them.

    plan : the plan of this stage; None for reduce = "none", where the features themselves are the rows.

    Raises TooFewSamplesError where there are fewer images than components, InvalidDataError where all rows are the
    same, and VarianceNotReachedError where the stored components do not reach the variance of the settings.
    """
    store, settings = context.store, context.settings
    if plan is None:
        return _unreduced(features, ingested)
    expected = _fit_fingerprint(settings, plan.solver, features)
    mark = store.mark(REDUCE)
    reused = mark is not None and _is_of(mark, expected, features, ingested) and _suffices(store, mark, settings, plan)
    checkpoints = StageCheckpoints(store, REDUCE, fingerprint(before=expected, rank=plan.choices.get("rank")))
    if mark is None or not reused:
        mark = _fit(context, features, ingested, plan, expected, checkpoints)
    else:
        context.progress.reused(REDUCE)
    checkpoints.clear()
    return _from_mark(store, mark, expected, settings, unit_length=features.unit_length, reused=reused)


def load_reduced(context: Context, features: Features, ingested: Ingested, plan: StagePlan | None) -> Reduced:
    """Load the scores of the last reduction without fitting. Raises StoreError where other settings made them."""
    store, settings = context.store, context.settings
    if plan is None:
        return _unreduced(features, ingested)
    expected = _fit_fingerprint(settings, plan.solver, features)
    mark = store.mark(REDUCE)
    if mark is None or not _is_of(mark, expected, features, ingested):
        raise StoreError(f"{store.root} holds no reduction by these settings; run the job to its end first")
    return _from_mark(store, mark, expected, settings, unit_length=features.unit_length, reused=True)


def _is_of(mark: Mark, expected: str, features: Features, ingested: Ingested) -> bool:
    """Return whether a fit has the expected fingerprint and was made from these features of these images."""
    payload = mark.payload
    of_these = payload["images"] == ingested.fingerprint and payload["features"] == features.fingerprint
    return mark.fingerprint == expected and of_these


def _unreduced(features: Features, ingested: Ingested) -> Reduced:
    unreduced = fingerprint(before=features.fingerprint, stage=REDUCE, reduce="none")
    facts = {"solver": "none", "passes": 0}
    return Reduced(unreduced, features.rows, features.rows.shape[1], None, ingested.reused, facts)


def _from_mark(
    store: Store, mark: Mark, fit_fingerprint: str, settings: Settings, *, unit_length: bool, reused: bool
) -> Reduced:
    ratio = store.load("explained_variance") / mark.payload["total_variance"]
    n_components = _components_for(ratio, settings, mark.payload)
    return Reduced(
        fingerprint=rows_fingerprint(fit_fingerprint, n_components, unit_length=unit_length),
        rows=clustered_scores(store, n_components, unit_length=unit_length),
        n_components=n_components,
        explained_variance_ratio=ratio,
        reused=reused,
        facts=mark.payload,
    )


def clustered_scores(store: Store, n_components: int, *, unit_length: bool) -> RowSource:
    """Return the rows that are clustered: the first columns of the stored scores, (n_ok, n_components) float32.

    unit_length : whether each row is scaled to the length 1, as for features of a network.
    """
    scores: RowSource = FirstColumns(StoredRows(store.array("scores")), n_components)
    if unit_length:
        return UnitLengthRows(scores)
    return scores


def embedding_of(store: Store, clustered: Mark | None) -> Mark | None:
    """Return the mark of the places by t-SNE or UMAP that were clustered; None where there are none.

    clustered : the mark of the clusters.
    """
    if clustered is None or clustered.payload["reduction"] not in MANIFOLDS:
        return None
    embedded = store.mark(MANIFOLD)
    return embedded if embedded is not None and embedded.fingerprint == clustered.payload["rows"] else None


def made_clusters(store: Store, fit: Mark | None, clustered: Mark) -> bool:
    """Return whether the clusters were made from this fit, or from rows that were not reduced.

    Where t-SNE or UMAP stand between the fit and the clusters, they belong to both. fit, clustered : the marks of the
    two stages. Raises StoreError where the store does not say what its rows are.
    """
    if clustered.payload["reduction"] == "none":
        return True
    made_of: Mark | None = clustered
    if clustered.payload["reduction"] in MANIFOLDS:
        made_of = embedding_of(store, clustered)
    if fit is None or made_of is None:
        return False
    rows, n_columns = made_of.payload["rows"], made_of.payload["n_columns"]
    return bool(rows == rows_fingerprint(fit.fingerprint, n_columns, unit_length=is_unit_length(store)))


def rows_fingerprint(fit: str, n_components: int, *, unit_length: bool) -> str:
    """Return the fingerprint of the first n_components columns of the scores of a fit, as `clustered_scores` has
    them."""
    scaled = {"unit_length": True} if unit_length else {}
    return fingerprint(before=fit, n_components=n_components, **scaled)


def _fit_fingerprint(settings: Settings, solver: str, features: Features) -> str:
    """Return the fingerprint of everything that the fit depends on.

    One fit of the incremental solver serves every variance target. Its rank and batch size, which the budget decides,
    are stored with the first fit and are no part of the fingerprint.
    """
    incremental = solver == "incremental"
    return fingerprint(
        before=features.fingerprint,
        stage=REDUCE,
        solver=solver,
        components=settings.components,
        variance=None if incremental else settings.variance,
        seed=settings.seed,
        iterated_power=settings.pca.iterated_power if incremental else None,
    )


def _suffices(store: Store, mark: Mark, settings: Settings, plan: StagePlan) -> bool:
    """Return whether the stored fit reaches the variance target, or this budget has no room for a larger rank
    either."""
    if settings.variance is None or plan.choices.get("rank", 0) <= mark.payload["rank"]:
        return True
    share = float(store.load("explained_variance").sum()) / mark.payload["total_variance"]
    return bool(share >= settings.variance)


def _components_for(ratio: NDArray[np.float64], settings: Settings, fitted: Mapping[str, Any]) -> int:
    """Return how many columns of the stored scores are used. fitted : the payload of the mark of the fit."""
    if settings.components is not None:
        return settings.components
    n_stored: int = fitted["n_components"]
    # The other solvers store what the target needs. Without a variance, the target is a number of components.
    if fitted["solver"] != "incremental" or settings.variance is None:
        return n_stored
    cumulative = np.cumsum(ratio[:n_stored])
    reached = np.flatnonzero(cumulative >= settings.variance - 1e-12)
    if len(reached) == 0:
        raise VarianceNotReachedError(
            f"variance {settings.variance:g} was asked for, {n_stored} components reach {cumulative[-1]:.4f}; use "
            f"--variance {np.floor(cumulative[-1] * 100) / 100:g}, --components {n_stored}, or a larger --memory"
        )
    return int(reached[0]) + 1


def _fit(
    context: Context,
    features: Features,
    ingested: Ingested,
    plan: StagePlan,
    fit_fingerprint: str,
    checkpoints: StageCheckpoints,
) -> Mark:
    store, progress = context.store, context.progress
    store.marks.remove(REDUCE)
    with progress.stage(REDUCE, 1, "steps"):
        fitted, digests = checkpoints.resume_or_restart(
            lambda: _fit_on_workers(context, features, plan, checkpoints), progress.warn
        )
        payload = {
            **fitted,
            "bytes_read": round(fitted["passes"] * math.prod(features.rows.shape) * features.rows.dtype.itemsize),
            "images": ingested.fingerprint,
            "features": features.fingerprint,
            **{name: plan.choices[name] for name in ("batch_rows",) if name in plan.choices},
        }
        payload["passes"] = round(fitted["passes"], 2)
        return store.commit(REDUCE, fit_fingerprint, digests, payload)


def _fit_on_workers(
    context: Context, features: Features, plan: StagePlan, checkpoints: StageCheckpoints
) -> tuple[dict[str, Any], Digests]:
    """Sum the products on all workers, fit on one of them, and compute scores on all where the fit leaves them."""
    store, cluster, settings, progress = context.store, context.cluster, context.settings, context.progress
    rows, target = features.rows, target_of(context.settings, *features.rows.shape)

    def on_progress(fit: FitProgress) -> None:
        progress.at(fit.done, fit.total)

    scratch, moments = unfinished_name(), features.moments
    workspace_bytes = plan.choices.get("sums_bytes", plan.choices.get("workspace_bytes", 0))
    try:
        projected = None
        if plan.solver == "subspace" and moments is not None:
            streamed = Streamed(
                StoreRef.of(store), RowsRef.of(rows), moments.total_square_sum, settings.gemm.kernel, scratch
            )
            extend = ExtendBasis(
                streamed, target, settings.seed, plan.choices["workspace_bytes"], CheckpointsRef.of(checkpoints)
            )
            projected = extend_on_workers(extend, cluster, on_progress)
        products = None
        if plan.choices.get("in_parts", True):
            products = products_in_parts(
                plan.solver,
                rows,
                target=target,
                cluster=cluster,
                threads=context.runtime.threads,
                workspace_bytes=workspace_bytes,
                kernel=settings.gemm.kernel,
                mean=None if moments is None else moments.column_sums / rows.shape[0],
                scratch=scratch,
                on_progress=on_progress,
                checkpoints=checkpoints,
            )
        fit = FitPCA(
            store=StoreRef.of(store),
            rows=RowsRef.of(rows),
            solver=plan.solver,
            target=target,
            choices=plan.choices,
            kernel=settings.gemm.kernel,
            iterated_power=settings.pca.iterated_power,
            seed=settings.seed,
            scratch=scratch,
            square_sum=None if moments is None else moments.total_square_sum,
            described=PICTURES if features.are_pixels else FEATURES,
            checkpoints=CheckpointsRef.of(checkpoints),
            scores_later=moments is not None and plan.solver == "covariance",
            n_summed=0 if products is None else products.n_steps,
            saved=None if products is None else products.saved,
            panels=() if products is None else products.panels,
            projected=projected,
            on_progress=Local(on_progress),
        )
        handles = [] if products is None or products.sums is None else [products.sums]
        fitted = cluster.once(fit, *handles)
    finally:
        FolderTiles(store.out / OURS / scratch).clear()
    store.refresh()
    digests = dict(fitted.digests)
    if fit.scores_later:
        digests |= scores_in_parts(store, rows, fitted.payload["n_components"], fitted.payload["score_step"], cluster)
    return fitted.payload, digests
