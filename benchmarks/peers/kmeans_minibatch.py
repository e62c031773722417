"""scikit-learn's MiniBatchKMeans on rows in memory, from given centers: what people take when Lloyd is too slow."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import numpy as np
    from sklearn.cluster import MiniBatchKMeans

    x, first = np.load(args.rows), np.load(args.init)
    MiniBatchKMeans(4, init=x[:4], n_init=1, max_iter=2).fit(x[:2000])
    begun = clock.seconds()
    found = MiniBatchKMeans(len(first), init=first, n_init=1, max_iter=args.iterations, random_state=args.seed).fit(x)
    done = clock.stop()
    common.save(args.out, centers=found.cluster_centers_, labels=found.labels_)
    seconds = round(done - begun, 4)
    return {"fit_seconds": seconds, "labels_seconds": seconds, "n_iter": int(found.n_iter_)}


if __name__ == "__main__":
    common.run(common.row_parser(__doc__), job)
