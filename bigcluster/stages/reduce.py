"""This stage computes PCA scores from the features. The spectrum of one fit says how many components reach the
variance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.config import Settings
from bigcluster.errors import InvalidDataError, StoreError, VarianceNotReachedError
from bigcluster.files.durable import unfinished_name
from bigcluster.files.layout import OURS
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import REDUCE
from bigcluster.planning.stages import target_of
from bigcluster.solvers.pca import PCAFit, fit_pca
from bigcluster.solvers.spill import FolderTiles
from bigcluster.solvers.unit_length import UnitLengthRows
from bigcluster.stages.context import Context
from bigcluster.stages.features import Features, is_unit_length
from bigcluster.stages.ingest import Ingested
from bigcluster.store import ColumnWriter, Mark, RowWriter, StageCheckpoints, Store, StoredRows, fingerprint
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


def made_clusters(store: Store, fit: Mark | None, clustered: Mark) -> bool:
    """Return whether the clusters were made from this fit, or from rows that were not reduced.

    fit, clustered : the marks of the two stages. Raises StoreError where the store does not say what its rows are.
    """
    if clustered.payload["reduction"] == "none":
        return True
    if fit is None:
        return False
    n_columns, unit_length = clustered.payload["n_columns"], is_unit_length(store)
    return bool(clustered.payload["rows"] == rows_fingerprint(fit.fingerprint, n_columns, unit_length=unit_length))


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
    store = context.store
    store.marks.remove(REDUCE)
    tiles = FolderTiles(store.out / OURS / unfinished_name())
    with context.progress.stage(REDUCE, 1, "steps"):
        try:
            fit = checkpoints.resume_or_restart(
                lambda: _solve(context, features, plan, tiles, checkpoints), context.progress.warn
            )
            if fit.total_variance == 0:
                same = "are the same picture at this size" if features.are_pixels else "have the same features"
                raise InvalidDataError(
                    f"all {features.rows.shape[0]} good images {same}: there is no variance to reduce; use "
                    "--set reduce=none or a larger --size"
                )
            digests = _write(store, fit)
        finally:
            tiles.clear()
        payload = {
            "solver": fit.solver,
            "passes": round(fit.passes, 2),
            "bytes_read": round(fit.passes * math.prod(features.rows.shape) * features.rows.dtype.itemsize),
            "rank": len(fit.eigenvalues),
            "n_components": _stored_components(fit),
            "total_variance": fit.total_variance,
            "images": ingested.fingerprint,
            "features": features.fingerprint,
            "score_step": fit.score_step,
            "components": "stored" if fit.dual_coef_dtype is None else "left",
            **{name: plan.choices[name] for name in ("batch_rows",) if name in plan.choices},
        }
        return store.commit(REDUCE, fit_fingerprint, digests, payload)


def _solve(
    context: Context,
    features: Features,
    plan: StagePlan,
    tiles: FolderTiles,
    checkpoints: StageCheckpoints,
) -> PCAFit:
    settings, runtime, progress = context.settings, context.runtime, context.progress
    rows = features.rows
    if plan.solver == "incremental":
        from bigcluster.solvers.pca.incremental import fit_incremental  # imports dask

        rank = min(plan.choices["rank"], *rows.shape)
        return fit_incremental(
            rows,
            target=target_of(settings, *rows.shape),
            rank=rank,
            batch_rows=max(rank, min(plan.choices["batch_rows"], rows.shape[0])),
            iterated_power=settings.pca.iterated_power,
            moments=features.moments,
            runtime=runtime,
            seed=settings.seed,
            on_progress=lambda fit: progress.at(fit.done, fit.total),
            checkpoints=checkpoints,
        )
    return fit_pca(
        plan.solver,
        rows,
        target=target_of(settings, *rows.shape),
        runtime=runtime,
        workspace_bytes=plan.choices["workspace_bytes"],
        tiles=tiles,
        gemm=Gemm(settings.gemm.kernel),
        seed=settings.seed,
        moments=features.moments,
        on_progress=lambda fit: progress.at(fit.done, fit.total),
        checkpoints=checkpoints,
    )


def _stored_components(fit: PCAFit) -> int:
    """Return how many components are stored: all of the incremental solver, otherwise those that the target needs."""
    return len(fit.eigenvalues) if fit.solver == "incremental" else fit.n_components


def _write(store: Store, fit: PCAFit) -> dict[str, str]:
    """Write the scores, mean and spectrum, and the components or the vectors from which they can be computed."""
    n_rows, n_features = fit.shape
    scores = RowWriter(store, "scores", n_rows, _stored_components(fit), np.float32)
    fit.write_scores(scores)
    digests = scores.close()
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
