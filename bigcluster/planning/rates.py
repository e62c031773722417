"""This module estimates how long a plan takes at the measured rates of a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bigcluster.config import Settings
from bigcluster.planning.plan import Plan, StagePlan
from bigcluster.planning.stage_names import CLUSTER, INGEST, MANIFOLD, NEIGHBORS, OUTPUT, REDUCE, REPORT, SWEEP
from bigcluster.solvers.kmeans.seeding import sample_size
from bigcluster.solvers.pca.lanczos import lanczos_size, lanczos_width
from bigcluster.solvers.pca.operands import DENSE_LIMIT
from bigcluster.solvers.pca.result import Target
from bigcluster.solvers.pca.schedule import block_width


@dataclass(frozen=True)
class Rates:
    """The speed of a machine. Times are of one thread while all cores work. An op is a multiplication or an
    addition."""

    measured_on: str
    """The day of the measurement, YYYY-MM-DD."""
    cores: int
    file_seconds: float
    """Seconds to open, read and hash a small file and to make its record."""
    jpeg_pixel_seconds: float
    reduced_pixel_seconds: float
    """Seconds per pixel in the file of a JPEG that is decoded at a reduced scale."""
    other_pixel_seconds: float
    """Seconds per pixel of a PNG or another format that is not JPEG."""
    integer_ops_per_second: float
    float_ops_per_second: float
    write_bytes_per_second: float
    """The speed of writing to the disk, with sync."""
    read_bytes_per_second: float
    """The speed of reading chunks that are in the page cache, including checksums."""
    link_seconds: float
    """Seconds for an entry under clusters/ and its rows in the tables."""


STEPS = 40
"""Number of iterations of k-means in an estimate. Chosen, not measured: the data decides the number."""
MINIBATCH_PASSES = 4
"""Cost of a mini-batch fit in exact passes: its sampled iterations and its last pass."""
APPLICATIONS = 8
"""Number of blocks of the basis of the subspace solver in an estimate: 800 components of catalog cuts took 8."""
AROUND_FILES = 3
"""Cost of a file beside its decode (interpreter, record, mark), in times of reading a small file."""
AROUND_PRODUCTS = 1.7
"""Time of a product of pixels with packing, additions and reads, in times of the product alone."""
AROUND_NEIGHBORS = 2.0
"""Time of a search of neighbors, with thresholds and sorting, in times of the products of all pairs alone."""
LEIDEN_SECONDS = 1e-4
"""Seconds of Leiden's algorithm for each image with 15 neighbors, on one thread."""
AROUND_LINKS = 4
"""Cost of a row of the tables and of its link with its record, in times of the link alone."""
SEEDING_SLOWNESS = 8
"""How many times slower distances to one center at a time are than products of many centers."""
REPORT_SECONDS = 2.5
"""Seconds of the plots, pages and pictures that every report has."""
THUMBNAIL_SECONDS = 4e-4
"""Seconds to shrink one thumbnail, place it in a sprite and encode it."""
MANIFOLD_START_SECONDS = {"tsne": 1.5, "umap": 8.0}
"""Seconds until the library of t-SNE or UMAP is loaded; numba compiles parts of that of UMAP."""
FITTED_SECONDS = {"tsne": 2e-3, "umap": 1.2e-3}
"""Seconds of one thread for each row that t-SNE or UMAP fits. On a processor with AVX-512, t-SNE took 1.4e-3 to 2.9e-3
for 2,000 to 20,000 rows with 30 neighbors, UMAP 0.6e-3 to 1.2e-3."""
PLACED_SECONDS = {"tsne": 2e-4, "umap": 1e-4}
"""The same for each row that is placed among the fitted ones."""
START_SECONDS = 1.2
"""Seconds until two interpreters have loaded their libraries."""


def with_seconds(plan: Plan, settings: Settings, target: Target | None, rates: Rates) -> Plan:
    """Return the plan with the estimated seconds of each stage. target : None where nothing is reduced."""
    estimate = _Estimate(plan, settings, target, rates)
    stages = tuple(replace(stage, seconds=round(estimate.of(stage), 2)) for stage in plan.stages)
    return replace(plan, stages=stages, estimated_on=rates.measured_on)


@dataclass(frozen=True)
class _Estimate:
    plan: Plan
    settings: Settings
    target: Target | None
    rates: Rates

    @property
    def threads_at_work(self) -> float:
        """The number of threads that compute at the same time, on all workers."""
        threads = self.plan.threads if self.plan.joined else min(self.plan.threads, self.rates.cores)
        return float(threads * self.plan.workers)

    def of(self, stage: StagePlan) -> float:
        estimates: dict[str, Callable[[StagePlan], float]] = {
            INGEST: self.ingest,
            REDUCE: self.reduce,
            MANIFOLD: self.manifold,
            SWEEP: self.kmeans,
            NEIGHBORS: self.neighbors,
            CLUSTER: self.communities if self.settings.finds_communities else self.kmeans,
            OUTPUT: self.output,
            REPORT: self.report,
        }
        return estimates[stage.stage](stage)

    def ingest(self, stage: StagePlan) -> float:
        rates, pictures = self.rates, self.plan.pictures
        a_file = (
            AROUND_FILES * rates.file_seconds
            + pictures.jpeg_pixels * rates.jpeg_pixel_seconds
            + pictures.reduced_pixels * rates.reduced_pixel_seconds
            + pictures.other_pixels * rates.other_pixel_seconds
            + self.plan.features.row_seconds
        )
        written = stage.bytes_written / rates.write_bytes_per_second / self.plan.workers
        return START_SECONDS + self.plan.n_images * a_file / self.threads_at_work + written

    def reduce(self, stage: StagePlan) -> float:
        assert self.target is not None
        n, d, rank = self.plan.n_images, self.plan.features.n_features, stage.choices["rank"]
        rates = self.rates
        integer = floats = 0.0
        if stage.solver == "gram":
            integer = float(n) * n * d
            basis = n if n <= DENSE_LIMIT else lanczos_size(self.target, n)
            floats = self.eigen_ops(n) + 4.0 * n * basis * rank
        elif stage.solver == "covariance":
            integer = float(n) * d * d
            floats = self.eigen_ops(d) + 2.0 * n * d * rank
        elif stage.solver == "subspace":
            integer = 4.0 * n * d * block_width(self.target, min(n, d)) * APPLICATIONS
            integer += 2.0 * n * d * rank if n > d else 0
        else:  # dask-ml's randomized SVD in float64, with its copies
            floats = 40.0 * n * d * rank
        of_rows = rates.integer_ops_per_second if self.plan.features.dtype == "uint8" else rates.float_ops_per_second
        computed = AROUND_PRODUCTS * integer / of_rows
        computed += floats / rates.float_ops_per_second
        read = stage.bytes_read / rates.read_bytes_per_second / self.plan.workers
        return computed / self.threads_at_work + read

    def eigen_ops(self, n: int) -> float:
        """Return the ops of the eigenvectors of an (n, n) matrix: dense on one thread, or by block Lanczos."""
        if n <= DENSE_LIMIT:
            return 20.0 * n**3 * self.threads_at_work
        assert self.target is not None
        size, width = lanczos_size(self.target, n), lanczos_width(self.target)
        steps = size / width
        return steps * 2.0 * n * n * width + 6.0 * n * size * size + 30.0 * size**3

    def manifold(self, stage: StagePlan) -> float:
        """Return the seconds of one thread: the libraries use no more."""
        fitted = stage.choices["fitted"]
        return (
            MANIFOLD_START_SECONDS[self.settings.reduce]
            + fitted * FITTED_SECONDS[self.settings.reduce]
            + (self.plan.n_images - fitted) * PLACED_SECONDS[self.settings.reduce]
        )

    def kmeans(self, stage: StagePlan) -> float:
        n, r = self.plan.n_images, stage.block_shape[1]
        starts = self.settings.kmeans.n_init
        steps = MINIBATCH_PASSES if stage.solver == "minibatch" else STEPS
        ops = sum(2.0 * n * r * k * starts for k in self.settings.ks or (1,))
        seeding = sum(self.seeding_ops(k, r) for k in self.settings.ks or (1,)) * starts
        if stage.stage == CLUSTER and len(self.settings.ks) > 1:  # from the centers that the sweep found
            ops, seeding = 2.0 * n * r * self.settings.ks[-1], 0.0
        computed = (steps * ops / self.threads_at_work + seeding) / self.rates.float_ops_per_second
        read = 4.0 * n * r / self.rates.read_bytes_per_second / self.plan.workers
        return computed + read

    def seeding_ops(self, n_clusters: int, n_columns: int) -> float:
        """Return the ops of k-means++ on a sample, on one thread. Every center is the best of some trials."""
        candidates = min(self.plan.n_images, sample_size(n_clusters, n_columns), 12 * n_clusters + 64)
        trials = 2 + n_clusters.bit_length()
        return 2.0 * n_clusters * trials * candidates * n_columns * SEEDING_SLOWNESS

    def neighbors(self, stage: StagePlan) -> float:
        ops = 2.0 * self.plan.n_images**2 * stage.block_shape[1] * AROUND_NEIGHBORS
        return ops / self.threads_at_work / self.rates.float_ops_per_second

    def communities(self, stage: StagePlan) -> float:
        n = self.plan.n_images
        return n * LEIDEN_SECONDS + stage.bytes_read / self.rates.read_bytes_per_second

    def output(self, stage: StagePlan) -> float:
        rows = AROUND_LINKS * self.plan.n_images * self.rates.link_seconds
        return rows + stage.bytes_written / self.rates.write_bytes_per_second

    def report(self, stage: StagePlan) -> float:
        thumbnails = min(self.plan.n_images, self.settings.report.thumbnails)
        return REPORT_SECONDS + thumbnails * THUMBNAIL_SECONDS + stage.bytes_read / self.rates.read_bytes_per_second
