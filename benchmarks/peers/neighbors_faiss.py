"""faiss IndexFlatIP on rows of length 1: one search for all rows, each of which finds itself, too."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import faiss
    import numpy as np

    x = np.load(args.rows)
    warm = faiss.IndexFlatIP(x.shape[1])
    warm.add(x[:2000])
    warm.search(x[:2000], 2)
    begun = clock.seconds()
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    _, ids = index.search(x, args.neighbors + 1)  # (n_rows, neighbors + 1)
    done = clock.stop()
    # Of several equal rows a row need not find itself: then the last one found is left out instead.
    own = ids == np.arange(len(ids))[:, None]
    own[~own.any(axis=1), -1] = True
    common.save(args.out, ids=ids[~own].reshape(len(ids), args.neighbors))
    return {"graph_seconds": round(done - begun, 4)}


if __name__ == "__main__":
    common.run(common.graph_parser(__doc__), job)
