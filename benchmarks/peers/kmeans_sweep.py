"""Every k of a range: by one sweep of ours, by as many fits of ours, or by scikit-learn's KMeans, best of 3 starts.

What lies in OUT is the largest k.
"""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.data import rows_store
from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import numpy as np

    from bigcluster.solvers.kmeans import fit, predict
    from bigcluster.solvers.kmeans import sweep as sweep_all
    from bigcluster.store import Store, StoredRows
    from bigcluster.store.row_source import ArrayRows, RowSource

    ks = range(args.least, args.most + 1)
    rows: RowSource = ArrayRows(np.load(args.rows))
    workspace_bytes = None
    if args.streamed:
        n_bytes = rows.shape[0] * rows.shape[1] * 4
        rows = StoredRows(Store(rows_store(args.rows)).array("scores"))
        workspace_bytes = int(n_bytes * args.streamed)
    few = ArrayRows(rows.read(0, 2000))
    fit(few, 4, max_iter=2)
    if args.way == "sweep":
        sweep_all(few, range(2, 6), max_iter=2)  # kneed is imported
    report: dict[str, Any] = {}
    begun = clock.seconds()
    if args.way == "sweep":
        swept = sweep_all(rows, ks, workspace_bytes=workspace_bytes)
        inertias, centers = [row.inertia for row in swept.rows], swept.rows[-1].centers
        report |= {"passes": swept.passes, "bytes_read": swept.bytes_read, "n_iter": swept.rows[-1].n_iter}
    elif args.way == "fits":
        fits = [fit(rows, k, workspace_bytes=workspace_bytes) for k in ks]
        inertias, centers = [found.inertia for found in fits], fits[-1].centers
        report |= {"passes": sum(found.passes for found in fits), "n_iter": fits[-1].n_iter}
        report |= {"bytes_read": sum(found.bytes_read for found in fits)}
        report |= {"longest_bytes_read": max(found.bytes_read for found in fits)}
    else:
        from sklearn.cluster import KMeans

        x = rows.read(0, rows.shape[0])
        others = [KMeans(k, n_init=3, random_state=args.seed).fit(x) for k in ks]
        inertias, centers = [float(other.inertia_) for other in others], others[-1].cluster_centers_
    seconds = round(clock.stop() - begun, 4)
    labelled = predict(rows, np.asarray(centers, np.float64))
    assert labelled is not None
    common.save(args.out, centers=centers, labels=labelled.labels)
    return report | {"fit_seconds": seconds, "labels_seconds": seconds, "inertias": inertias}


if __name__ == "__main__":
    arguments = common.row_parser(__doc__)
    arguments.add_argument("--way", choices=("sweep", "fits", "sklearn"), default="sweep")
    arguments.add_argument("--least", type=int, default=5)
    arguments.add_argument("--most", type=int, default=20)
    arguments.add_argument("--streamed", type=float, default=0.0, help="share of the data's size to work in")
    common.run(arguments, job)
