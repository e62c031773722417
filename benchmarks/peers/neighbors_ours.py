"""bigcluster's exact neighbors: of rows in memory, or streamed from a store with a small workspace."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from typing import Any

from benchmarks.data import rows_store
from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import numpy as np

    from bigcluster.solvers.neighbors import neighbor_graph
    from bigcluster.store import Store, StoredRows
    from bigcluster.store.row_source import ArrayRows, RowSource

    rows: RowSource
    workspace_bytes = None
    if args.streamed:
        rows = StoredRows(Store(rows_store(args.rows)).array("scores"))
        n_rows, n_columns = rows.shape
        workspace_bytes = int(n_rows * n_columns * rows.dtype.itemsize * args.streamed)
    else:
        rows = ArrayRows(np.load(args.rows))
    neighbor_graph(ArrayRows(rows.read(0, 2000)), 2)
    begun = clock.seconds()
    graph = neighbor_graph(rows, args.neighbors, workspace_bytes=workspace_bytes)
    done = clock.stop()
    common.save(args.out, ids=graph.ids)
    return {
        "graph_seconds": round(done - begun, 4),
        "passes": graph.passes,
        "bytes_read": graph.bytes_read,
        "graph_digest": hashlib.sha256(graph.ids.tobytes() + graph.distances.tobytes()).hexdigest(),
    }


if __name__ == "__main__":
    arguments = common.graph_parser(__doc__)
    arguments.add_argument("--streamed", type=float, default=0.0, help="share of the data's size to work in")
    common.run(arguments, job)
