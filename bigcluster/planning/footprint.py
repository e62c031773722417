"""Bytes that each stage will hold, as pure arithmetic: the one place where they are projected.

Every function takes plain numbers and returns bytes beyond what the interpreter and the libraries hold by themselves.
"""

from __future__ import annotations

from bigcluster.units import MIB

SUPERVISOR_BYTES = 37 * MIB
"""The process that the user started: interpreter, command line, progress display."""
WORKER_BYTES = 89 * MIB
"""The working process with numpy, OpenCV, Pillow and zarr, before any image."""
PRODUCTS_BYTES = 42 * MIB
"""What ONNX Runtime and its kernels add, once something is multiplied."""
DASK_ML_BYTES = 262 * MIB
"""What dask-ml adds as its solvers run: dask.array, scikit-learn, numba, pandas."""
CHARTS_BYTES = 90 * MIB
"""What kneed, matplotlib and the parts of SciPy that they use add, once a sweep looks for its elbow and draws it."""
DISTRIBUTED_BYTES = 25 * MIB
"""What a dask worker adds: distributed, tornado, msgpack and its event loop."""

DECODING_CHILD_BYTES = 40 * MIB
"""What a child adds that decodes files whose headers may lie, before any picture: its libraries' pages are shared with
the working process."""
PARQUET_CHILD_BYTES = 40 * MIB
"""What a child adds that reads a Parquet manifest: Python and pyarrow, before any row."""

FLOORS = {
    "reduce=none": SUPERVISOR_BYTES + WORKER_BYTES,
    "own solvers": SUPERVISOR_BYTES + WORKER_BYTES + PRODUCTS_BYTES,
    "dask-ml's solvers": SUPERVISOR_BYTES + WORKER_BYTES + PRODUCTS_BYTES + DASK_ML_BYTES,
}
"""What a run holds before it holds any data, by configuration: measured, and published in the README."""

WORKSPACE_SHARE = 3 / 4
"""Of what the budget leaves, the part that a solver may fill: the allocator keeps some of what was freed."""
FLOAT64 = 8
FLOAT32 = 4


def project_ingest_bytes(*, block_rows: int, n_values: int, in_flight: int, threads: int, decode_bytes: int) -> int:
    """Blocks being filled or written, their column sums and records, and one decode per thread.

    Of blocks that wait for the disk, the records alone.

    A block counts one and a quarter times: chunks are copied out of it while they are written.
    """
    block = block_rows * n_values
    sums = n_values * FLOAT64
    records = (in_flight + COMMITS_IN_FLIGHT) * block_rows * RECORD_BYTES
    return in_flight * (block + block // 4 + sums) + records + threads * decode_bytes


COMMITS_IN_FLIGHT = 2
"""Blocks of pixels that are written and wait for the disk while others are decoded."""
RECORD_BYTES = 1500
"""One row's record while its block is decoded and marked: the object, its values and its JSON."""
NAME_BYTES = 104
"""One listed name, and what sorting it took."""


def project_names_bytes(n_images: int) -> int:
    """Finding rows that were decoded before: 64-bit hashes of all names twice, where they stand, and their order."""
    return n_images * 40


_INCREMENTAL_COPIES = 7
"""float64 copies of batch + basis that dask-ml's IncrementalPCA holds at its peak, as measured."""


def project_incremental_bytes(*, batch_rows: int, rank: int, n_values: int) -> int:
    """dask-ml's IncrementalPCA: the batch on top of the basis, in float64, in several copies."""
    return _INCREMENTAL_COPIES * FLOAT64 * (batch_rows + rank + 1) * n_values


def incremental_rows(n_values: int, usable_bytes: int) -> int:
    """Batch and basis rows together that fit: the inverse of `project_incremental_bytes`."""
    return usable_bytes // (_INCREMENTAL_COPIES * FLOAT64 * n_values) - 1


def project_projection_bytes(*, block_rows: int, n_values: int, rank: int, threads: int) -> int:
    """Own projection of row blocks: float32 basis once, then pixels, their float32 copy and the scores per thread."""
    return FLOAT32 * rank * n_values + threads * (block_rows * n_values * (1 + FLOAT32) + block_rows * rank * FLOAT64)


def project_dask_kmeans_bytes(*, n_columns: int, n_clusters: int, block_rows: int, threads: int) -> int:
    """What dask-ml's KMeans holds beside ours: blocks and their distances to all centers, many candidates a center."""
    per_block = block_rows * (n_columns * 3 + 3 * n_clusters) * FLOAT64
    return threads * per_block + 40 * n_clusters * n_columns * FLOAT64


def project_memberships_bytes(n_rows: int) -> int:
    """Label, distance, runner-up and its distance of every row, once as fitted and once renumbered; and the names."""
    return n_rows * (2 * 24 + 120)


KEPT_BYTES = 24 * MIB
"""What the libraries and the allocator keep of the stages before, as measured while outputs are written."""
LINK_BYTES = 330
"""A row while links are made anew: the name given to it, by which others are kept apart; what is known of its old and
its new entry, and of where its content is elsewhere."""


def project_output_bytes(n_images: int, *, block_rows: int, linked: bool) -> int:
    """Names as listed; label, distance, runner-up and margin of every row, its key, and what made the margin; links.

    And the records of one block of pixels, and what stays of stages before.
    """
    return KEPT_BYTES + n_images * (NAME_BYTES + 48 + (LINK_BYTES if linked else 0)) + block_rows * RECORD_BYTES


def project_predict_bytes(*, rows: int, n_values: int, n_columns: int, n_clusters: int) -> int:
    """A block of new pixels (twice: the good ones are copied), a slab of it centered, one of the components, scores."""
    slab = min(n_values, 8192)
    centered = rows * slab * (FLOAT64 + FLOAT32)
    components = 2 * n_columns * slab * FLOAT32
    scores = rows * (3 * n_columns * FLOAT64 + 4 * n_clusters * FLOAT32)
    return 2 * rows * n_values + centered + components + scores + 3 * n_clusters * n_columns * FLOAT64


NOVELTY_BYTES = 150
"""Of every image of the model: its traits as it is and as if it had been left out, their logarithms, and an order."""


def project_novelty_bytes(n_images: int) -> int:
    """What is usual among the model's images; the blocks of pixels that it reads are smaller than those of decoding."""
    return n_images * NOVELTY_BYTES


REPORT_BYTES = 64 * MIB
"""What plots and templates add as the report is written: matplotlib, jinja2."""
EMBEDDING_BYTES = 320 * MIB
"""t-SNE or UMAP of a sample of 10,000 images, their libraries included."""
REPORT_ROW_BYTES = 120
"""Of every image: its place in five orders, its name, and where it is in the search."""
REPORT_PICTURE_PIXELS = 160
"""Neither side of a picture of a center or component is longer."""
REPORT_PICTURE_COPIES = 4
"""The mixtures with the mean added, and what rounding and clipping makes of them."""
REPORT_ROWS = 60
"""Eigen-images and reconstructions, beside the centers."""


def report_picture_values(image_size: tuple[int, int], n_channels: int) -> int:
    """Values of a picture of a center: shrunk by a whole factor."""
    width, height = image_size
    factor = -(-max(width, height) // REPORT_PICTURE_PIXELS)
    return max(1, width // factor) * max(1, height // factor) * n_channels


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
    """Names and their order, coefficients, and what the largest of three steps holds, one after the other.

    The pass: row blocks as stored and half as much around reading them, and the small pictures of a block; where
    components are `left`, made of what passes, those as floats too, the mixtures, and what is added to them. The mixing
    of components that are `stored`: the mixtures, a batch of them in full size, and a slab of components. Then pictures
    are made of the mixtures. `none`: nothing was reduced, centers are pictures themselves.
    """
    passing = in_flight * (block_rows * n_values * 3 // 2 + block_rows * picture_values)
    passing += block_rows * picture_values * FLOAT32 + 2 * picture_bytes if components == "left" else 0
    mixing = picture_bytes + max(picture_bytes, n_values * FLOAT32)
    mixing += n_columns * min(n_values, 8192) * FLOAT32 if components == "stored" else 0
    coefficients = (n_clusters + REPORT_ROWS) * n_columns * (FLOAT64 + FLOAT32)
    showing = REPORT_PICTURE_COPIES * picture_bytes
    return REPORT_BYTES + n_images * REPORT_ROW_BYTES + coefficients + max(passing, mixing, showing)
