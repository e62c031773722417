"""This module checks that the stored results agree with each other: all blocks exist, counts add up, numbers are
finite.

Digests show that each file is as it was written; these checks show that the files belong together. Nothing is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog.ledger import Ledger
from bigcluster.config import MANIFOLDS
from bigcluster.errors import DamagedError, StoreError
from bigcluster.files.layout import ARRAYS, MARKS
from bigcluster.kernels.kmeans.assign import two_nearest
from bigcluster.kernels.kmeans.centers import fit_scaler, prepare
from bigcluster.kernels.kmeans.sums import exact_sq
from bigcluster.kernels.linalg.moments import block_moments
from bigcluster.planning.stage_names import CLUSTER, COMPONENTS, FEATURES, INGEST, MANIFOLD, NEIGHBORS, REDUCE
from bigcluster.solvers.communities import votes
from bigcluster.stages import ingest, manifold, reduce
from bigcluster.stages.features import is_unit_length, load_features
from bigcluster.stages.membership import LEIDEN, algorithm_of
from bigcluster.stages.neighbors import DISTANCES, IDS, load_ids
from bigcluster.store import Damage, Mark, Store, read_whole
from bigcluster.store.row_source import RowSource, spans

_LABELLED_ROWS = 4096
"""Number of rows whose nearest center is computed again: enough to detect arrays of different fits. Chosen, not
measured."""


@dataclass(frozen=True)
class Stored:
    """The marks of a finished run, for comparison with its other files. A mark is None where it is missing."""

    n_blocks: int
    """The number of blocks of pixels; 0 where the ingest did not finish."""
    recipe: Mark | None
    """How the pixels were decoded; None also where the pixels were decoded in another way."""
    features: Mark | None
    """The mark of the mean of features that are not the pixels."""
    fitted: Mark | None
    embedded: Mark | None
    """The mark of t-SNE or UMAP of the scores."""
    clustered: Mark | None
    read_ledger: Callable[[], Ledger]
    """Returns the records of all files. Raises StoreError where they are damaged."""


def load(store: Store) -> Stored:
    """Load the marks of the stages that belong to one state: after an interrupted run, later marks are outdated."""
    names = (INGEST, ingest.RECIPE, FEATURES, REDUCE, MANIFOLD, CLUSTER)
    ingested, recipe, extracted, fitted, embedded, clustered = (_sized(store, name) for name in names)
    read_ledger = cache(partial(ingest.load_ledger, store))
    if ingested is None:
        return Stored(0, None, None, None, None, None, read_ledger)
    if recipe is None or not ingest.is_recipe_of_blocks(store, recipe.fingerprint):
        return Stored(ingested.payload["n_blocks"], None, None, None, None, None, read_ledger)
    if extracted is not None and extracted.payload["images"] != ingested.fingerprint:
        extracted = None
    if fitted is not None and not _are_of(fitted, ingested):
        fitted = None
    if embedded is not None and embedded.payload["images"] != ingested.fingerprint:
        embedded = None
    if clustered is not None and not _are_of(clustered, ingested):
        clustered = None
    if clustered is not None and fitted is not None and not reduce.made_clusters(store, fitted, clustered):
        clustered = None
    return Stored(ingested.payload["n_blocks"], recipe, extracted, fitted, embedded, clustered, read_ledger)


def _are_of(mark: Mark, ingested: Mark) -> bool:
    """Return whether the results of a stage were made from the images of this ingest and from their features."""
    return {mark.payload["images"], mark.payload["features"]} == {ingested.fingerprint}


def _sized(store: Store, stage: str) -> Mark | None:
    """Return the mark of a stage whose arrays have the sizes in the mark, whether their files are damaged or not."""
    mark = store.marks.read(stage)
    return mark if mark is not None and store.agrees(stage, mark) else None


def audit(store: Store, stored: Stored, missing: set[str]) -> Iterator[Damage]:
    """Yield the results that do not fit each other.

    missing : stages that are known to be damaged. Results that depend on them are not checked.
    """
    if stored.n_blocks and INGEST not in missing:
        yield from _audit_pixels(store, stored)
    if stored.features is not None and not missing & {INGEST, FEATURES}:
        yield from _audit_features(store)
    if stored.fitted is not None and not missing & {INGEST, FEATURES, REDUCE}:
        yield from _audit_reduction(store, stored.fitted, made=COMPONENTS not in missing)
    if stored.embedded is not None and not missing & {INGEST, MANIFOLD}:
        for damage in _audit_embedding(store, stored.embedded):
            missing = missing | {MANIFOLD}
            yield damage
    of_graph = stored.clustered is not None and algorithm_of(stored.clustered) == LEIDEN
    graph = _sized(store, NEIGHBORS)
    if of_graph and graph is not None and not missing & {INGEST, NEIGHBORS}:
        for damage in _audit_graph(store, graph.payload["n_neighbors"]):
            missing = missing | {NEIGHBORS}
            yield damage
    needs = {INGEST, FEATURES, REDUCE, MANIFOLD, CLUSTER} | ({NEIGHBORS} if of_graph else set())
    if stored.clustered is not None and not missing & needs:
        yield from _audit_clusters(store, stored.clustered)


def _audit_pixels(store: Store, stored: Stored) -> Iterator[Damage]:
    ok = store.load("ok")
    try:
        recorded = stored.read_ledger().ok
    except StoreError as error:  # a block's mark is gone
        yield Damage(f"{MARKS}/{INGEST}", INGEST, f"is not whole: {error}")
        return
    if not np.array_equal(ok, recorded) or len(ok) != store.array("pixels").shape[0]:
        yield Damage(f"{ARRAYS}/ok", INGEST, "does not agree with the records of the files")
    if len(store.load("row_keys")) != int(ok.sum()):
        yield Damage(f"{ARRAYS}/row_keys", INGEST, f"has not one key for each of {int(ok.sum())} good rows")


def _audit_features(store: Store) -> Iterator[Damage]:
    if not np.isfinite(store.load("feature_mean")).all():
        yield Damage(f"{ARRAYS}/feature_mean", FEATURES, "is not finite")
    if not all(np.isfinite(block).all() for block in _chunks(store.array("features"))):
        yield Damage(f"{ARRAYS}/features", FEATURES, "is not finite")


def _audit_reduction(store: Store, fitted: Mark, *, made: bool) -> Iterator[Damage]:
    """made : whether components that were computed later are checked as well."""
    n_ok, values = int(store.load("ok").sum()), store.load("explained_variance")
    if not np.isfinite(values).all() or (values < 0).any() or (np.diff(values) > 0).any():
        yield Damage(f"{ARRAYS}/explained_variance", REDUCE, "is not finite and descending")
    if not np.isfinite(store.load("mean")).all():
        yield Damage(f"{ARRAYS}/mean", REDUCE, "is not finite")
    if store.array("scores").shape != (n_ok, fitted.payload["n_components"]):
        yield Damage(f"{ARRAYS}/scores", REDUCE, f"has the shape {store.array('scores').shape}, {n_ok} rows are good")
    basis = "components" if fitted.payload["components"] == "stored" else "left"
    later = {COMPONENTS} if made and store.mark(COMPONENTS) is not None else set()
    for name in sorted({"scores", basis} | later):
        if not all(np.isfinite(block).all() for block in _chunks(store.array(name))):
            yield Damage(f"{ARRAYS}/{name}", REDUCE, "is not finite")


def _audit_embedding(store: Store, embedded: Mark) -> Iterator[Damage]:
    places = manifold.places(store)
    n_ok = int(store.load("ok").sum())
    if places.shape != (n_ok, embedded.payload["n_dimensions"]):
        yield Damage(f"{ARRAYS}/embedding", MANIFOLD, f"has the shape {places.shape}, {n_ok} rows are good")
    elif not all(np.isfinite(block).all() for block in _chunks(store.array("embedding"))):
        yield Damage(f"{ARRAYS}/embedding", MANIFOLD, "is not finite")
    if not manifold.are_rows(store.load("embedding_rows"), n_ok):
        yield Damage(f"{ARRAYS}/embedding_rows", MANIFOLD, "names rows that there are not")


def _audit_clusters(store: Store, clustered: Mark) -> Iterator[Damage]:
    centers, labels, distance = (store.load(name) for name in ("centers", "labels", "distance"))
    n_ok, n_clusters = int(store.load("ok").sum()), clustered.payload["n_clusters"]
    if len(centers) != n_clusters or not np.isfinite(centers).all():
        yield Damage(f"{ARRAYS}/centers", CLUSTER, f"is not {n_clusters} finite centers")
        return
    if len(labels) != n_ok or len(distance) != n_ok:
        yield Damage(f"{ARRAYS}/labels", CLUSTER, f"has {len(labels)} rows, {n_ok} are good")
        return
    sizes = Counter(labels.tolist())
    if set(sizes) != set(range(n_clusters)) or [sizes[c] for c in range(n_clusters)] != sorted(
        sizes.values(), reverse=True
    ):
        yield Damage(f"{ARRAYS}/labels", CLUSTER, "does not number the clusters by size")
    if algorithm_of(clustered) == LEIDEN:
        yield from _audit_communities(store, clustered, centers, labels, distance)
        return
    if not np.isclose(float((distance**2).sum()), clustered.payload["inertia"], rtol=1e-9):
        yield Damage(f"{ARRAYS}/distance", CLUSTER, "does not add up to the inertia")
    if (_nearest(_rows(store, clustered, centers.shape[1]), centers) != labels[:_LABELLED_ROWS]).any():
        yield Damage(f"{ARRAYS}/labels", CLUSTER, "does not name the nearest centers")


def _audit_graph(store: Store, n_neighbors: int) -> Iterator[Damage]:
    if n_neighbors == 0:
        return
    try:
        ids, distances = load_ids(store, n_neighbors), store.load(DISTANCES)
    except DamagedError:
        yield Damage(f"{ARRAYS}/{IDS}", NEIGHBORS, "names images that there are not")
        return
    if not (np.isfinite(distances).all() and (distances >= 0).all() and (np.diff(distances, axis=1) >= 0).all()):
        yield Damage(f"{ARRAYS}/{DISTANCES}", NEIGHBORS, "is not finite and ascending")
    if (ids == np.arange(len(ids))[:, np.newaxis]).any():
        yield Damage(f"{ARRAYS}/{IDS}", NEIGHBORS, "names an image as its own neighbor")


def _audit_communities(
    store: Store,
    clustered: Mark,
    centers: NDArray[np.float64],
    labels: NDArray[np.int32],
    distance: NDArray[np.float64],
) -> Iterator[Damage]:
    """Compare the votes with the stored graph, and the distances with the stored means."""
    graph = _sized(store, NEIGHBORS)
    if graph is None or graph.payload["rows"] != clustered.payload["rows"]:
        yield Damage(f"{MARKS}/{NEIGHBORS}", NEIGHBORS, "is missing, or is not of these scores")
        return
    ids = load_ids(store, graph.payload["n_neighbors"])[:_LABELLED_ROWS]
    here = slice(0, len(ids))
    counted = votes(labels[ids], labels[here])
    margin, runner_up = store.load("margin")[here], store.load("runner_up")[here]
    if (runner_up != counted.runner_up).any() or (margin != counted.shares - counted.runner_up_shares).any():
        yield Damage(f"{ARRAYS}/labels", CLUSTER, "does not agree with the votes of the stored neighbors")
    to_mean = np.sqrt(exact_sq(_rows(store, clustered, centers.shape[1]), centers, labels[here]))
    if not np.allclose(to_mean, distance[here], rtol=1e-9, atol=1e-12):
        yield Damage(f"{ARRAYS}/distance", CLUSTER, "is not the distance to the means")


def _rows(store: Store, clustered: Mark, n_columns: int) -> NDArray[Any]:
    """Return the first rows that were clustered, (up to _LABELLED_ROWS, n_columns)."""
    source: RowSource
    if clustered.payload["reduction"] == "none":
        source = load_features(store, ingest.load_ingested(store)).rows
    elif clustered.payload["reduction"] in MANIFOLDS:
        source = manifold.places(store)
    else:
        source = reduce.clustered_scores(store, n_columns, unit_length=is_unit_length(store))
    return source.read(0, min(_LABELLED_ROWS, source.shape[0]), slice(0, n_columns))


def _nearest(rows: NDArray[Any], centers: NDArray[np.float64]) -> NDArray[np.int32]:
    return two_nearest(rows, prepare(centers, fit_scaler(block_moments(centers)))).labels


def _chunks(array: Any) -> Iterator[NDArray[Any]]:
    """Yield the chunks of a two-dimensional array, with one in memory at a time."""
    rows, columns = array.shape
    for top in spans(rows, array.chunks[0]):
        for left in spans(columns, array.chunks[1]):
            yield read_whole(array, (slice(*top), slice(*left)))
