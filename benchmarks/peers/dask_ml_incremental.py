"""dask-ml's IncrementalPCA (batches of 1,024 rows, its own defaults otherwise) and KMeans."""

from __future__ import annotations

import warnings
from argparse import Namespace
from typing import Any

from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import dask
    from dask_ml.cluster import KMeans
    from dask_ml.decomposition import IncrementalPCA

    from benchmarks.peers.dask_images import BLOCK_ROWS, as_dask_array

    warnings.simplefilter("ignore", RuntimeWarning)  # fit divides by a variance of zero before its first batch
    with common.task_counter() as tasks:
        x = as_dask_array(args.images)
        pca = IncrementalPCA(args.components, batch_size=BLOCK_ROWS, random_state=args.seed).fit(x)
        (scores,) = dask.persist(pca.transform(x))
        reduced = clock.seconds()
        kmeans = KMeans(args.clusters, random_state=args.seed).fit(scores)
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
