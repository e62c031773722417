"""faiss Kmeans on all points, from given centers, and its search for the labels."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import faiss
    import numpy as np

    x, first = np.load(args.rows), np.load(args.init)
    everything = {"max_points_per_centroid": len(x), "min_points_per_centroid": 1}  # it samples by default
    faiss.Kmeans(x.shape[1], 4, niter=2, **everything).train(x[:2000], init_centroids=x[:4].copy())
    begun = clock.seconds()
    found = faiss.Kmeans(x.shape[1], len(first), niter=args.iterations, **everything)
    found.train(x, init_centroids=first)
    fitted = clock.seconds()
    _, labels = found.index.search(x, 1)  # (n_samples, 1)
    done = clock.stop()
    common.save(args.out, centers=found.centroids, labels=labels.ravel())
    return {
        "fit_seconds": round(fitted - begun, 4),
        "labels_seconds": round(done - begun, 4),
        "n_iter": args.iterations,
    }


if __name__ == "__main__":
    common.run(common.row_parser(__doc__), job)
