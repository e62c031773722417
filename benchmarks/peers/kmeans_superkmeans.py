"""superkmeans on all points, without early stop, and its exact assignment. It takes no first centers from outside."""

from __future__ import annotations

import os
from argparse import Namespace
from typing import Any

from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import numpy as np
    from superkmeans import SuperKMeans

    x, n_clusters = np.load(args.rows), len(np.load(args.init, mmap_mode="r"))

    def model(k: int, iterations: int) -> Any:
        return SuperKMeans(
            k,
            x.shape[1],
            hierarchical=args.hierarchical,
            iters=iterations,
            sampling_fraction=1.0,
            max_points_per_cluster=len(x),
            early_termination=False,
            n_threads=os.cpu_count() or 1,
        )

    model(16, 2).train(x[:2000])
    begun = clock.seconds()
    found = model(n_clusters, args.iterations)
    centers = np.asarray(found.train(x))
    fitted = clock.seconds()
    labels = found.assign(x, centers)
    done = clock.stop()
    common.save(args.out, centers=centers, labels=labels)
    return {
        "fit_seconds": round(fitted - begun, 4),
        "labels_seconds": round(done - begun, 4),
        "n_iter": args.iterations,
    }


if __name__ == "__main__":
    arguments = common.row_parser(__doc__)
    arguments.add_argument("--hierarchical", action="store_true")
    common.run(arguments, job)
