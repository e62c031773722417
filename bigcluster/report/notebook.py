"""A finished run in a notebook: counts, sizes and a small montage in one piece of HTML, without a report."""

from __future__ import annotations

import base64
import csv
import html
import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bigcluster.catalog import from_csv_path
from bigcluster.kernels.decode import DecodeSpec, decode
from bigcluster.outputs.folders import FOLDER as CLUSTERS
from bigcluster.outputs.summary import memory_lines
from bigcluster.stages.ingest import stored_recipe
from bigcluster.store import Store
from bigcluster.units import show_count

COLUMNS = 12
ROWS = 4
TILE_PIXELS = 64
_MOST_PIXELS = 50_000_000
_EMPTY = 225
"""Grey of a picture that is not there."""

Pixels = NDArray[np.uint8]


def run_html(out: Path, summary: dict[str, Any], store: Store) -> str:
    """What a notebook shows of a run. Everything that comes from names or files is escaped."""
    counts, sizes = summary["counts"], summary["cluster_sizes"]
    lines = [f"{show_count(counts['ok'])} images in {summary['n_clusters']} clusters", html.escape(str(out))]
    if counts["failed"]:
        lines.append(f"{show_count(counts['failed'])} of {show_count(counts['listed'])} files could not be read")
    if summary["explained_variance_ratio"] is not None:
        lines.append(f"{summary['n_components']} components, {summary['explained_variance_ratio']:.1%} of the variance")
    lines += memory_lines(summary["memory"])
    cells, n_gone = _montage(out, store, sizes)
    if n_gone:
        lines.append(f"{n_gone} of the linked images shown here are gone")
    report = out / "report" / "index.html"
    if report.is_file():
        lines.append(f"look at {html.escape(str(report))}")
    heads = "".join(f"<th>{number}: {show_count(size)}</th>" for number, size in enumerate(sizes[:COLUMNS]))
    more = f"<p>{len(sizes) - COLUMNS} smaller clusters</p>" if len(sizes) > COLUMNS else ""
    return f"<p><b>{lines[0]}</b><br>{'<br>'.join(lines[1:])}</p><table><tr>{heads}</tr><tr>{cells}</tr></table>{more}"


def _montage(out: Path, store: Store, sizes: list[int]) -> tuple[str, int]:
    """A table cell per cluster with its nearest images, and how many of these are gone."""
    spec = _tile_spec(stored_recipe(store))
    files = _nearest_files(out, store, min(COLUMNS, len(sizes)))
    cells, n_gone = [], 0
    for number, nearest in enumerate(files):
        tiles = [_tile(out / CLUSTERS / file if file else None, spec) for file in nearest]
        n_gone += sum(tile is None for tile in tiles)
        empty = np.full((spec.height, spec.width, 3), _EMPTY, np.uint8)
        strip = np.concatenate([empty if tile is None else tile for tile in tiles])
        data = io.BytesIO()
        Image.fromarray(strip).save(data, "WEBP", quality=70)
        text = base64.b64encode(data.getvalue()).decode()
        cells.append(f'<td><img alt="nearest images of cluster {number}" src="data:image/webp;base64,{text}"></td>')
    return "".join(cells), n_gone


def _tile_spec(recipe: DecodeSpec) -> DecodeSpec:
    """As the images were clustered, in colour, small."""
    scale = min(1.0, TILE_PIXELS / max(recipe.width, recipe.height))
    width, height = (max(1, round(side * scale)) for side in (recipe.width, recipe.height))
    return replace(recipe, width=width, height=height, color=True, normalize="none", max_pixels=_MOST_PIXELS)


def _nearest_files(out: Path, store: Store, n_clusters: int) -> list[list[str]]:
    """Per cluster, where its nearest images are below clusters/; '' where there is no link."""
    labels, distance = store.load("labels"), store.load("distance")
    listed = np.flatnonzero(store.load("ok"))
    rows = []
    for number in range(n_clusters):
        members = np.flatnonzero(labels == number)
        rows.append(listed[members[np.argsort(distance[members], kind="stable")[:ROWS]]].tolist())
    files = dict(_file_cells(out / "labels.csv", sorted(row for some in rows for row in some)))
    return [[files[row] for row in some] for some in rows]


def _file_cells(path: Path, wanted: list[int]) -> Iterator[tuple[int, str]]:
    """(row, file) of some rows of labels.csv, ascending."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = islice(csv.reader(file), 1, None)
        passed = 0
        for row in wanted:
            yield row, from_csv_path(next(islice(lines, row - passed, None))[6])
            passed = row + 1


def _tile(path: Path | None, spec: DecodeSpec) -> Pixels | None:
    try:
        data = b"" if path is None else path.read_bytes()
    except OSError:
        return None
    pixels = decode(data, spec).pixels
    return None if pixels is None else pixels.reshape(spec.height, spec.width, 3)
