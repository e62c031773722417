"""This module plans the report. The budget decides how many blocks are read at once and how large pictures are."""

from __future__ import annotations

from bigcluster.config import Settings
from bigcluster.planning import footprint
from bigcluster.planning.feature_shape import channels
from bigcluster.planning.plan import StagePlan
from bigcluster.planning.stage_names import REPORT
from bigcluster.planning.stages import clustering_baseline_bytes
from bigcluster.runtime.resources import Resources
from bigcluster.store.chunk_grid import pixel_chunks
from bigcluster.units import MIB

BLOCKS_IN_FLIGHT = 2
"""Number of row blocks at a time: one is read while another is shrunk."""
MOST_PICTURE_BYTES = 64 * MIB
LEAST_PICTURE_BYTES = 4 * MIB
"""The largest and the smallest number of bytes for the pictures of centers and components. Chosen, not measured."""
PART_BYTES = 16 * MIB
"""Bytes of thumbnails that a worker of a cluster sends at once, unless one row block has more. Chosen, not measured."""
PARTS_AT_ONCE = 4
"""Parts whose results may be in the process that writes the report at once, whatever the number of workers. Chosen, not
measured."""
_PAGE_BYTES = 100
"""Bytes on the disk of every image: its rows in the list of its cluster and in the search."""
_THUMBNAIL_BYTES = 3072
"""Bytes on the disk of every image with a thumbnail. Some are on several pages."""
_THUMBNAIL_VALUES = 112 * 112
"""Number of pixels of a thumbnail."""


def components_of(solver: str | None, *, of_pixels: bool) -> str:
    """Return what a solver stores: "left" vectors for gram, otherwise "stored" components.

    solver : None where nothing is reduced; then the result is "none". of_pixels : whether the features are pixels; if
    not, components are no pictures and the result is "unseen".
    """
    if not of_pixels:
        return "unseen"
    return "none" if solver is None else "left" if solver == "gram" else "stored"


def plan_report(
    settings: Settings,
    n_images: int,
    image_size: tuple[int, int],
    n_columns: int,
    n_clusters: int,
    components: str,
    n_classes: int,
    resources: Resources,
) -> StagePlan:
    """Return the plan of the report. Where the budget is small, pictures are smaller and one block is read at a time.

    Of its choices, `drawing_bytes` are those of the pass over the pixels, which the workers of a cluster make, and
    `sent_bytes` what they send at once.

    n_columns : columns of the rows that are clustered. components : the result of `components_of`.
    n_classes : how many classes are stored of each image.
    """
    n_channels = channels(settings)
    n_values = image_size[0] * image_size[1] * n_channels
    rows, columns = pixel_chunks(n_values)
    values = footprint.report_picture_values(image_size, n_channels)
    baseline = clustering_baseline_bytes(settings, resources) + footprint.project_classes_bytes(n_clusters, n_classes)
    if settings.report.map in ("tsne", "umap"):
        baseline += footprint.EMBEDDING_BYTES

    def projected(in_flight: int, picture_bytes: int) -> int:
        return baseline + footprint.project_report_bytes(
            n_images=n_images,
            n_values=n_values,
            block_rows=min(rows, n_images),
            in_flight=in_flight,
            picture_bytes=picture_bytes,
            picture_values=values,
            n_columns=n_columns,
            n_clusters=n_clusters,
            components=components,
        )

    in_flight = min(BLOCKS_IN_FLIGHT, resources.threads, -(-n_images // rows))
    while in_flight > 1 and projected(in_flight, LEAST_PICTURE_BYTES) > resources.budget_bytes:
        in_flight -= 1
    # All pictures at their full size, or what the budget leaves: they shrink to fit.
    spare = resources.budget_bytes - projected(in_flight, LEAST_PICTURE_BYTES)
    full_size = footprint.FLOAT32 * (n_clusters + footprint.REPORT_ROWS) * values
    affordable = LEAST_PICTURE_BYTES + spare // footprint.REPORT_PICTURE_COPIES
    picture_bytes = max(LEAST_PICTURE_BYTES, min(MOST_PICTURE_BYTES, full_size, affordable))
    n_thumbnails = min(n_images, settings.report.thumbnails)
    tile_bytes = min(n_values, _THUMBNAIL_VALUES * n_channels)
    block_rows = min(rows, n_images)
    part_bytes = min(n_thumbnails * tile_bytes, max(PART_BYTES, block_rows * tile_bytes))
    part_bytes += picture_bytes if components in ("left", "unseen") else 0  # sums of pictures
    return StagePlan(
        stage=REPORT,
        solver="pages",
        why=f"thumbnails of up to {settings.report.thumbnails:,} images, map {settings.report.map}",
        block_shape=(rows, columns),
        passes="1 over the pixels",
        bytes_read=n_images * n_values,
        bytes_written=n_images * _PAGE_BYTES + n_thumbnails * _THUMBNAIL_BYTES,
        projected_bytes=projected(in_flight, picture_bytes),
        choices={
            "in_flight": in_flight,
            "picture_bytes": picture_bytes,
            "drawing_bytes": footprint.project_drawing_bytes(
                block_rows, n_values, in_flight, picture_bytes, values, components
            ),
            "sent_bytes": min(PARTS_AT_ONCE, -(-n_images // rows)) * part_bytes,
        },
        scratch_bytes=2 * n_thumbnails * tile_bytes,
    )
