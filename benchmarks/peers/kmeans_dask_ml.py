"""dask-ml's KMeans on a dask array over rows in memory, from given centers."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.peers import common

CHUNK_ROWS = 16_384


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import dask.array as da
    import numpy as np
    from dask_ml.cluster import KMeans

    x, first = np.load(args.rows), np.load(args.init)
    KMeans(4, init=x[:4], max_iter=2).fit(da.from_array(x[:2000], chunks=(1000, -1)))
    begun = clock.seconds()
    with common.task_counter() as tasks:
        rows = da.from_array(x, chunks=(CHUNK_ROWS, -1))
        found = KMeans(len(first), init=first, max_iter=args.iterations, tol=0).fit(rows)
        fitted = clock.seconds()
        labels = found.labels_.compute()
    done = clock.stop()
    common.save(args.out, centers=found.cluster_centers_, labels=labels)
    return {
        "fit_seconds": round(fitted - begun, 4),
        "labels_seconds": round(done - begun, 4),
        "n_iter": int(found.n_iter_),
        "dask_tasks": tasks.count,
    }


if __name__ == "__main__":
    common.run(common.row_parser(__doc__), job)
