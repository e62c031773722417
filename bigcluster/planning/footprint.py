"""This module projects the bytes of memory that each stage will hold, by arithmetic alone.

Every function takes plain numbers and returns bytes beyond those of the interpreter and the libraries.
"""

from __future__ import annotations

from bigcluster.units import MIB

SUPERVISOR_BYTES = 37 * MIB
"""Bytes of the process that the user started: interpreter, command line and progress display. Measured."""
WORKER_BYTES = 89 * MIB
"""Bytes of the working process with numpy, OpenCV, Pillow and zarr, before any image. Measured."""
PRODUCTS_BYTES = 42 * MIB
"""Bytes that ONNX Runtime and its kernels add at the first product. Measured."""
DASK_ML_BYTES = 262 * MIB
"""Bytes that dask-ml adds when its solvers run: dask.array, scikit-learn, numba and pandas. Measured."""
CHARTS_BYTES = 90 * MIB
"""Bytes that kneed, matplotlib and the parts of SciPy that they use add when a sweep finds and draws its elbow."""
COORDINATOR_BYTES = 32 * MIB
"""Bytes that dask.distributed adds to the process that starts a job: its client or scheduler, their event loop, and the
resource tracker of multiprocessing. Measured."""
DASK_WORKER_BYTES = 118 * MIB
"""Bytes of a dask worker alone on its host, before any image: distributed, numpy, OpenCV, zarr and parts of SciPy.
Measured: 116 MiB."""
SHARED_BYTES = 36 * MIB
"""Bytes of DASK_WORKER_BYTES that exist once on a machine: the pages of libraries that all its workers and the process
that starts them have in common. Measured: 36 to 44 MiB."""

DECODING_CHILD_BYTES = 40 * MIB
"""Bytes that a decoding child adds before any picture. It shares the pages of its libraries with the working
process."""
PARQUET_CHILD_BYTES = 40 * MIB
"""Bytes that a child adds which reads a Parquet manifest: Python and pyarrow, before any row."""

FLOORS = {
    "reduce=none": SUPERVISOR_BYTES + WORKER_BYTES,
    "own solvers": SUPERVISOR_BYTES + WORKER_BYTES + PRODUCTS_BYTES,
    "dask-ml's solvers": SUPERVISOR_BYTES + WORKER_BYTES + PRODUCTS_BYTES + DASK_ML_BYTES,
    "2 workers": SUPERVISOR_BYTES + WORKER_BYTES + COORDINATOR_BYTES + 2 * (DASK_WORKER_BYTES - SHARED_BYTES),
}
"""Bytes of a run before it holds any data, for each configuration: measured, and published in the README."""

WORKSPACE_SHARE = 3 / 4
"""The share of the remaining budget that a solver may fill: the allocator does not return all memory that was freed."""
FLOAT64 = 8
FLOAT32 = 4
"""Bytes of one value of these types."""


def project_ingest_bytes(
    *, block_rows: int, n_values: int, row_bytes: int, in_flight: int, threads: int, decode_bytes: int
) -> int:
    """Return the bytes of blocks that are being filled or written, of their column sums and records, and of the
    decodes.

    There is one decode for each thread. Of blocks that wait for the disk, only the records count. A block counts one
    and a quarter times, because chunks are copied from it while they are written.
    n_values : of the pixels of one image. row_bytes : of all that is stored of one image.
    """
    block = block_rows * row_bytes
    sums = n_values * FLOAT64
    records = (in_flight + COMMITS_IN_FLIGHT) * block_rows * RECORD_BYTES
    return in_flight * (block + block // 4 + sums) + records + threads * decode_bytes


COMMITS_IN_FLIGHT = 2
"""Number of blocks of pixels that wait for the disk while others are decoded."""
RECORD_BYTES = 1500
"""Bytes of the record of one row while its block is decoded and written, at most: the object and its values."""
NAME_BYTES = 104
"""Bytes of one listed name, including the memory of sorting it, which later holds its row in the ledger: 53 bytes."""
SENT_NAME_BYTES = 51
"""Bytes of one listed name in a worker, which neither sorts the names nor keeps the ledger."""
RECORDS_AT_ONCE = 4096
"""Records that are made at a time of the rows of a ledger. Chosen, not measured."""


def project_names_bytes(n_images: int) -> int:
    """Return the bytes for finding rows that were decoded before: 64-bit hashes of all names twice, their places, and
    their order."""
    return n_images * 40


_INCREMENTAL_COPIES = 7
"""Number of float64 copies of batch and basis that IncrementalPCA of dask-ml holds at its peak, as measured."""


def project_incremental_bytes(*, batch_rows: int, rank: int, n_values: int) -> int:
    """Return the bytes of IncrementalPCA of dask-ml: the batch and the basis in float64, in several copies."""
    return _INCREMENTAL_COPIES * FLOAT64 * (batch_rows + rank + 1) * n_values


def incremental_rows(n_values: int, usable_bytes: int) -> int:
    """Return how many rows of batch and basis fit together: the inverse of `project_incremental_bytes`."""
    return usable_bytes // (_INCREMENTAL_COPIES * FLOAT64 * n_values) - 1


def project_projection_bytes(*, block_rows: int, n_values: int, rank: int, threads: int) -> int:
    """Own projection of row blocks: float32 basis once, then pixels, their float32 copy and the scores per thread."""
    return FLOAT32 * rank * n_values + threads * (block_rows * n_values * (1 + FLOAT32) + block_rows * rank * FLOAT64)


def project_dask_kmeans_bytes(*, n_columns: int, n_clusters: int, block_rows: int, threads: int) -> int:
    """Return the bytes of KMeans of dask-ml: blocks, their distances to all centers, and many candidates for each
    center."""
    per_block = block_rows * (n_columns * 3 + 3 * n_clusters) * FLOAT64
    return threads * per_block + 40 * n_clusters * n_columns * FLOAT64


def project_memberships_bytes(n_rows: int) -> int:
    """Return the bytes of label, distance, runner-up and its distance of every row, as fitted and renumbered, and of
    names."""
    return n_rows * (2 * 24 + 120)


KEPT_BYTES = 24 * MIB
"""Bytes that libraries and the allocator still hold from earlier stages, as measured while outputs are written."""
LINK_BYTES = 330
"""Bytes of one row while links are made: its unique name, its old and its new entry, and other places of its
content."""


CLASSES_OF_A_CLUSTER = 3
"""Classes that the results name for a cluster, at most. Chosen, not measured."""
CLASS_COUNT_BYTES = 8 * MIB
"""Bytes of the counts of classes in the clusters that are counted at once. Chosen, not measured."""
CLASS_BLOCK_BYTES = 4 * MIB
"""Bytes of the stored classes that are read at once. Chosen, not measured."""
_CLASS_BLOCKS = 6
"""Sizes of such a block in memory at once: the block as stored, its class numbers as int64, the numbers of the clusters
that are counted, and the indices of the counts. Counted in the code, not measured."""


def project_classes_bytes(n_clusters: int, n_classes: int) -> int:
    """Return the bytes of the classes of clusters: counts, a block that is counted, and the classes of each cluster.

    n_classes : how many classes are stored of each image; 0 where there are none.
    """
    if n_classes == 0:
        return 0
    return CLASS_COUNT_BYTES + _CLASS_BLOCKS * CLASS_BLOCK_BYTES + n_clusters * CLASSES_OF_A_CLUSTER * 3 * FLOAT32


def project_output_bytes(n_images: int, *, linked: bool, n_clusters: int = 1, n_classes: int = 0) -> int:
    """Return the bytes of the names and, for every row, the label, distance, runner-up, margin, key and links.

    The records that are made at once are included, and what earlier stages have left. linked : whether links are made.
    n_classes : how many classes are stored of each image.
    """
    rows = n_images * (NAME_BYTES + 48 + (LINK_BYTES if linked else 0)) + RECORDS_AT_ONCE * RECORD_BYTES
    return KEPT_BYTES + rows + project_classes_bytes(n_clusters, n_classes)


def project_predict_bytes(
    *, rows: int, pixel_bytes: int, feature_bytes: int, n_features: int, n_columns: int, n_clusters: int
) -> int:
    """Return the bytes of a block of new pixels, twice because the good rows are copied, of their features, of a
    centered slab of these, of a slab of the components, and of the scores.

    pixel_bytes : of the pixels of one image. feature_bytes : of its features, where they are not the pixels; else 0.
    """
    slab = min(n_features, 8192)
    centered = rows * slab * (FLOAT64 + FLOAT32)
    components = 2 * n_columns * slab * FLOAT32
    scores = rows * (3 * n_columns * FLOAT64 + 4 * n_clusters * FLOAT32)
    blocks = rows * (2 * pixel_bytes + feature_bytes)
    return blocks + centered + components + scores + 3 * n_clusters * n_columns * FLOAT64


NOVELTY_BYTES = 150
"""Bytes of every image of the model: its traits with and without the image itself, their logarithms, and an order."""


def project_novelty_bytes(n_images: int) -> int:
    """Return the bytes for measuring what is usual among the images of the model. The blocks of pixels that it reads
    are smaller than those of decoding."""
    return n_images * NOVELTY_BYTES


REPORT_BYTES = 64 * MIB
"""Bytes that plots and templates add when the report is written: matplotlib and jinja2."""
EMBEDDING_BYTES = 320 * MIB
"""Bytes of t-SNE or UMAP of a sample of 10,000 images, including their libraries."""
REPORT_ROW_BYTES = 120
"""Bytes of every image in the report: its place in five orders, its name, and its place in the search."""
REPORT_PICTURE_PIXELS = 160
"""The longest side in pixels of a picture of a center or component."""
REPORT_PICTURE_COPIES = 4
"""Number of copies of the pictures: the mixtures with the mean added, and the results of rounding and clipping."""
REPORT_ROWS = 60
"""Number of eigen-images and reconstructions, in addition to the centers."""


def report_picture_values(image_size: tuple[int, int], n_channels: int) -> int:
    """Return the number of values of a picture of a center, which is shrunk by an integer factor. image_size :
    pixels."""
    width, height = image_size
    factor = -(-max(width, height) // REPORT_PICTURE_PIXELS)
    return max(1, width // factor) * max(1, height // factor) * n_channels


def project_drawing_bytes(
    block_rows: int, n_values: int, in_flight: int, picture_bytes: int, picture_values: int, components: str
) -> int:
    """Return the bytes of the pass of the report over the pixels; see `project_report_bytes`."""
    passing = in_flight * (block_rows * n_values * 3 // 2 + block_rows * picture_values)
    passing += block_rows * picture_values * FLOAT32 + 2 * picture_bytes if components in ("left", "unseen") else 0
    return passing


def project_report_bytes(
    *,
    n_images: int,
    n_values: int,
    block_rows: int,
    in_flight: int,
    picture_bytes: int,
    picture_values: int,
    n_columns: int,
    n_clusters: int,
    components: str,
) -> int:
    """Return the bytes of the names and their order, of the coefficients, and of the largest of three steps.

    The first step is the pass over the pixels: row blocks as stored, half as much for reading them, and the small
    pictures of a block. Where components are `left`, they are computed in this pass, which adds the pictures as floats,
    the mixtures, and what is added to them. The second step mixes components that are `stored`: the mixtures, a batch
    of them in full size, and a slab of components. The third step makes pictures of the mixtures. Where components are
    `none`, nothing was reduced, and the centers are pictures themselves. Where they are `unseen`, the features are not
    the pixels: nothing is mixed, and the mean pictures of the clusters are summed in the pass.
    """
    passing = project_drawing_bytes(block_rows, n_values, in_flight, picture_bytes, picture_values, components)
    mixing = 0 if components == "unseen" else picture_bytes + max(picture_bytes, n_values * FLOAT32)
    mixing += n_columns * min(n_values, 8192) * FLOAT32 if components == "stored" else 0
    coefficients = (n_clusters + REPORT_ROWS) * n_columns * (FLOAT64 + FLOAT32)
    showing = REPORT_PICTURE_COPIES * picture_bytes
    return REPORT_BYTES + n_images * REPORT_ROW_BYTES + coefficients + max(passing, mixing, showing)
