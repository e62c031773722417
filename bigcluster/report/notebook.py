"""A finished run as a notebook shows it: counts, sizes and a small montage in one piece of HTML, without a report.

OUT may come from a stranger, and people pass a notebook on with everything that it shows. Therefore all text is
escaped, and pictures are drawn from the stored pixels: no file is opened because a table in OUT names it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bigcluster.errors import StoreError
from bigcluster.outputs.summary import memory_lines
from bigcluster.report.thumbnails import WEBP, factor_for, shrink
from bigcluster.stages.ingest import pixel_rows, stored_recipe
from bigcluster.store import Store
from bigcluster.units import show_count

COLUMNS, ROWS = 12, 4
"""Clusters in the montage, the largest ones, and images of each. Chosen, not measured."""
TILE_PIXELS = 64
"""The longer side of a picture is at most this many pixels. Chosen, not measured."""
_EMPTY = 225
"""Grey value, 0 to 255, where a cluster has fewer images than there are rows."""

Pixels = NDArray[np.uint8]


def run_html(out: Path, summary: dict[str, Any], store: Store) -> str:
    """Return the HTML that a notebook shows for a run. Raises StoreError where `summary` is not of a finished run."""
    try:
        lines, heads, more = _texts(out, summary)
        n_clusters = len(heads)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{out / 'summary.json'} is not of a finished run; run the job again") from error
    cells = "".join(f"<td>{picture}</td>" for picture in _montage(store, n_clusters))
    titles = "".join(f"<th>{html.escape(head)}</th>" for head in heads)
    first, *others = map(html.escape, lines)
    rest = "".join(f"<p>{html.escape(line)}</p>" for line in more)
    return f"<p><b>{first}</b><br>{'<br>'.join(others)}</p><table><tr>{titles}</tr><tr>{cells}</tr></table>{rest}"


def _texts(out: Path, summary: dict[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Return the lines above the montage, its column heads, and the lines below it. No text is escaped yet."""
    counts, sizes = summary["counts"], summary["cluster_sizes"]
    lines = [f"{show_count(counts['ok'])} images in {summary['n_clusters']} clusters", str(out)]
    if counts["failed"]:
        lines.append(f"{show_count(counts['failed'])} of {show_count(counts['listed'])} files could not be read")
    if summary["explained_variance_ratio"] is not None:
        lines.append(f"{summary['n_components']} components, {summary['explained_variance_ratio']:.1%} of the variance")
    lines += memory_lines(summary["memory"])
    report = out / "report" / "index.html"
    if report.is_file():
        lines.append(f"look at {report}")
    heads = [f"{number}: {show_count(size)}" for number, size in enumerate(sizes[:COLUMNS])]
    more = [f"{len(sizes) - COLUMNS} smaller clusters"] if len(sizes) > COLUMNS else []
    return lines, heads, more


def _montage(store: Store, n_clusters: int) -> Iterator[str]:
    """Yield one HTML image per cluster: the images nearest to its center, below each other, from the stored pixels."""
    spec = stored_recipe(store)
    factor = factor_for(spec, TILE_PIXELS)
    labels, distance, ok = store.load("labels"), store.load("distance"), store.load("ok")
    pixels = pixel_rows(store, ok)
    for number in range(n_clusters):
        members = np.flatnonzero(labels == number)
        nearest = members[np.argsort(distance[members], kind="stable")[:ROWS]].tolist()
        tiles = [shrink(pixels.read(row, row + 1), spec, factor)[0] for row in nearest]
        empty = np.full_like(tiles[0], _EMPTY) if tiles else np.full((TILE_PIXELS, TILE_PIXELS), _EMPTY, np.uint8)
        strip = np.concatenate(tiles + [empty] * (ROWS - len(tiles)))
        data = io.BytesIO()
        Image.fromarray(strip).save(data, "WEBP", **WEBP)
        text = base64.b64encode(data.getvalue()).decode()
        yield f'<img alt="nearest images of cluster {number}" src="data:image/webp;base64,{text}">'
