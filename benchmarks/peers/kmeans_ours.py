"""bigcluster's k-means from given centers: on rows in memory, or streamed from a store with a small workspace.

Its fit ends with the pass that labels every row, so fit and labels are one.
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from typing import Any

from benchmarks.data import rows_store
from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import numpy as np

    from bigcluster.solvers.kmeans import fit
    from bigcluster.store import Store, StoredRows
    from bigcluster.store.row_source import ArrayRows, RowSource

    first = np.load(args.init)
    rows: RowSource
    workspace_bytes = None
    if args.streamed:
        rows = StoredRows(Store(rows_store(args.rows)).array("scores"))
        n_rows, n_columns = rows.shape
        workspace_bytes = int(n_rows * n_columns * rows.dtype.itemsize * args.streamed)
    else:
        rows = ArrayRows(np.load(args.rows))
    fit(ArrayRows(rows.read(0, 2000)), 4, max_iter=2)
    begun = clock.seconds()
    found = fit(rows, len(first), init=first, max_iter=args.iterations, tol=0, workspace_bytes=workspace_bytes)
    done = clock.stop()
    assert found.rows is not None
    common.save(args.out, centers=found.centers, labels=found.rows.labels)
    seconds = round(done - begun, 4)
    return {
        "fit_seconds": seconds,
        "labels_seconds": seconds,
        "n_iter": found.n_iter,
        "reported_inertia": found.inertia,
        "passes": found.passes,
        "bytes_read": found.bytes_read,
        "labels_digest": hashlib.sha256(found.rows.labels.tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    arguments = common.row_parser(__doc__)
    arguments.add_argument("--streamed", type=float, default=0.0, help="share of the data's size to work in")
    common.run(arguments, job)
