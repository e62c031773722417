"""dask-ml's PCA (randomized, one power iteration) and KMeans, over a lazy dask array of the images."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import dask
    from dask_ml.cluster import KMeans
    from dask_ml.decomposition import PCA

    from benchmarks.peers.dask_images import as_dask_array

    with common.task_counter() as tasks:
        x = as_dask_array(args.images)
        pca = PCA(args.components, svd_solver="randomized", iterated_power=1, random_state=args.seed)
        # fit_transform: transform after fit asks for an attribute that newer scikit-learns no longer set.
        (scores,) = dask.persist(pca.fit_transform(x))
        reduced = clock.seconds()
        kmeans = KMeans(args.clusters, random_state=args.seed).fit(scores.rechunk((1024, -1)))
        labels = kmeans.labels_.compute()
    done = clock.stop()
    common.save(args.out, scores=scores.compute(), labels=labels)
    return {
        "scores_seconds": reduced,
        "labels_seconds": done,
        "reported_variance": float(pca.explained_variance_ratio_.sum()),
        "dask_tasks": tasks.count,
    }


if __name__ == "__main__":
    common.run(common.image_parser(__doc__), job)
