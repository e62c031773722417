"""scikit-learn's KMeans (Lloyd) on rows in memory, from given centers, or with --restarts from k-means++."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import numpy as np
    from sklearn.cluster import KMeans

    x = np.load(args.rows)
    KMeans(4, init=x[:4], n_init=1, max_iter=2).fit(x[:2000])  # thread pools and compiled code are ready
    begun = clock.seconds()
    if args.restarts:
        found = KMeans(args.n_clusters, n_init=args.restarts, random_state=args.seed).fit(x)
    else:
        first = np.load(args.init)
        found = KMeans(len(first), init=first, n_init=1, max_iter=args.iterations, tol=0).fit(x)
    done = clock.stop()
    common.save(args.out, centers=found.cluster_centers_, labels=found.labels_)
    seconds = round(done - begun, 4)
    return {"fit_seconds": seconds, "labels_seconds": seconds, "n_iter": int(found.n_iter_)}


if __name__ == "__main__":
    arguments = common.row_parser(__doc__)
    arguments.add_argument("--restarts", type=int, default=0, help="k-means++ and that many starts; then --n-clusters")
    arguments.add_argument("--n-clusters", type=int, default=10)
    common.run(arguments, job)
