"""The naive ways to do the job, which hold all images in memory: `python -m bigcluster.profiling.naive`.

    numpy         all images in one matrix, then PCA and KMeans of scikit-learn, as a script would do it
    naive-dask    one dask array per image, concatenated, then PCA and KMeans of dask-ml

The process reads one JSON request from stdin, and writes one JSON line to stdout. It limits its own memory: when memory
runs out, only this process gets a MemoryError.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

Pictures = list[Any]


def main() -> int:
    """Do the job of the request. The exit status is 0 also where memory ran out, because that is a result."""
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_stdin, daemon=True).start()
    for library in LIBRARIES[request["way"]]:  # before the limit: an import that fails is no sign of too little memory
        import_module(library)
    _limit(request["limit_bytes"])
    try:
        result = WAYS[request["way"]](request)
    except Exception as error:  # usually a MemoryError, or what a library raises instead of it
        result = {"ended": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


def _leave_with_stdin() -> None:
    """End this process when stdin closes: then the process that asked has ended."""
    while sys.stdin.readline():
        pass
    os._exit(1)


def _limit(n_bytes: int) -> None:
    """Limit what this process may allocate. Where the system runs out of memory, it ends this process first."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:  # not on Linux
        return


def _read(request: dict[str, Any]) -> Pictures:
    """Return every image that cv2.imread can read, resized, as a flat uint8 array."""
    import cv2

    width, height = request["image_size"]
    flag = cv2.IMREAD_COLOR if request["color"] else cv2.IMREAD_GRAYSCALE
    pictures = []
    for file in request["files"]:
        picture = cv2.imread(os.fsdecode(bytes.fromhex(file)), flag)
        if picture is None:
            continue
        if picture.shape[:2] != (height, width):
            picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        pictures.append(picture.ravel())
    return pictures


def _numpy(request: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    x = np.array(_read(request), dtype=np.float32)  # (n_samples, n_features)
    if request["n_components"] is not None:
        x = PCA(request["n_components"], random_state=request["seed"]).fit_transform(x)
    KMeans(request["n_clusters"], n_init=4, random_state=request["seed"]).fit(x)
    return {"ended": "done", "n_images": len(x)}


def _naive_dask(request: dict[str, Any]) -> dict[str, Any]:
    import dask
    import dask.array as da
    import numpy as np
    from dask_ml.cluster import KMeans
    from dask_ml.decomposition import PCA

    x = da.concatenate([da.from_array(picture[np.newaxis]) for picture in _read(request)])
    if request["n_components"] is not None:
        # The tall-and-skinny QR of dask needs chunks of at least as many rows as components, so rows are joined.
        rows = x.astype(np.float32).rechunk((max(1024, request["n_components"]), -1))
        pca = PCA(request["n_components"], svd_solver="randomized", iterated_power=1, random_state=request["seed"])
        (x,) = dask.persist(pca.fit_transform(rows))
        x = x.rechunk((1024, -1))
    else:
        x = x.astype(np.float32)
    KMeans(request["n_clusters"], random_state=request["seed"]).fit(x).labels_.compute()
    return {"ended": "done", "n_images": len(x)}


LIBRARIES = {
    "numpy": ("cv2", "sklearn.cluster", "sklearn.decomposition"),
    "naive-dask": ("cv2", "dask.array", "dask_ml.cluster", "dask_ml.decomposition"),
}
WAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"numpy": _numpy, "naive-dask": _naive_dask}


if __name__ == "__main__":
    sys.exit(main())
