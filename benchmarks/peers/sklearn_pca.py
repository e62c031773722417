"""The script that people write: cv2.imread, one float32 matrix in memory, scikit-learn's PCA and KMeans."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from benchmarks.data import image_files
from benchmarks.peers import common


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    import cv2
    import numpy as np
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    pictures = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in image_files(args.images)]
    x = np.array([picture.ravel() for picture in pictures if picture is not None], dtype=np.float32)
    loaded = clock.seconds()
    pca = PCA(args.components, svd_solver="randomized", random_state=args.seed)
    scores = pca.fit_transform(x)  # (n_samples, n_components)
    reduced = clock.seconds()
    labels = KMeans(args.clusters, n_init=10, random_state=args.seed).fit(scores).labels_
    done = clock.stop()
    common.save(args.out, scores=scores, labels=labels)
    return {
        "load_seconds": loaded,
        "scores_seconds": reduced,
        "labels_seconds": done,
        "reported_variance": float(pca.explained_variance_ratio_.sum()),
    }


if __name__ == "__main__":
    common.run(common.image_parser(__doc__), job)
