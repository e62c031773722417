"""What the report will hold: the budget settles blocks read at once, and how large pictures are."""

from __future__ import annotations

from bigcluster import memory
from bigcluster.chunks import pixel_chunks
from bigcluster.config import Settings
from bigcluster.planning.plan import Resources, StagePlan
from bigcluster.planning.stages import baseline_bytes
from bigcluster.units import MIB

BLOCKS_IN_FLIGHT = 2
"""One row block is read while another is shrunk."""
MOST_PICTURE_BYTES = 64 * MIB
LEAST_PICTURE_BYTES = 4 * MIB


def plan_report(
    settings: Settings, n_images: int, n_values: int, n_columns: int, n_clusters: int, resources: Resources
) -> StagePlan:
    """n_columns : of what is clustered. Smaller pictures and one block at a time where the budget is small."""
    rows, columns = pixel_chunks(n_values)
    baseline = baseline_bytes(settings, resources, products=settings.reduce == "pca")

    def projected(in_flight: int, picture_bytes: int) -> int:
        return baseline + memory.project_report_bytes(
            n_images=n_images,
            block_bytes=min(rows, n_images) * n_values,
            in_flight=in_flight,
            picture_bytes=picture_bytes,
            n_columns=n_columns,
            n_clusters=n_clusters,
            embeds=settings.report.map in ("tsne", "umap"),
        )

    in_flight = min(BLOCKS_IN_FLIGHT, resources.threads, -(-n_images // rows))
    while in_flight > 1 and projected(in_flight, LEAST_PICTURE_BYTES) > resources.budget_bytes:
        in_flight -= 1
    spare = resources.budget_bytes - projected(in_flight, 0)
    wanted = memory.FLOAT32 * (n_clusters + memory.REPORT_ROWS) * n_values
    picture_bytes = min(MOST_PICTURE_BYTES, wanted, spare // memory.REPORT_PICTURE_COPIES)
    picture_bytes = max(LEAST_PICTURE_BYTES, picture_bytes)
    return StagePlan(
        stage="report",
        solver="pages",
        why=f"thumbnails of up to {settings.report.thumbnails:,} images, map {settings.report.map}",
        block_shape=(rows, columns),
        passes="1 over the pixels",
        bytes_read=n_images * n_values,
        bytes_written=0,
        projected_bytes=projected(in_flight, picture_bytes),
        choices={"in_flight": in_flight, "picture_bytes": picture_bytes},
    )
