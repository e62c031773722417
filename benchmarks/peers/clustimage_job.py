"""clustimage, folder to labels: 128x128 grey pixels, PCA to 80 % of the variance, k-means.

It resizes for itself, so its explained variance is that of other pixels than everybody else's.
"""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.data import image_files
from benchmarks.peers import common

SIDE = 128
VARIANCE = 0.8


def job(args: Namespace, clock: common.Clock) -> dict[str, Any]:
    os.environ.setdefault("MPLBACKEND", "Agg")
    import numpy as np
    from clustimage import Clustimage

    twin = Clustimage(
        method="pca",
        embedding=None,  # a map for plots, which nobody else draws here
        grayscale=True,
        dim=(SIDE, SIDE),
        params_pca={"n_components": VARIANCE},
        use_image_cache=False,
        use_thumbnail_cache=False,
        tempdir=str(args.out / "temp"),
        ncores=os.cpu_count(),
        verbose="warning",
    )
    found = twin.fit_transform(str(args.images), cluster="kmeans", min_clust=args.clusters, max_clust=args.clusters + 1)
    done = clock.stop()
    place = {Path(name).resolve(): row for row, name in enumerate(found["pathnames"])}
    own = np.array([found["labels"][place[file.resolve()]] for file in image_files(args.images)])
    # its k-means labels begin at -1, which elsewhere means an image that could not be read
    labels = np.unique(own, return_inverse=True)[1]
    common.save(args.out, labels=labels)
    return {
        "labels_seconds": done,
        "pixels": f"{SIDE}x{SIDE}",
        "n_components": int(found["feat"].shape[1]),
        "asked_variance": VARIANCE,
    }


if __name__ == "__main__":
    common.run(common.image_parser(__doc__), job)
