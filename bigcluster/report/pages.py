"""The pages: what each one shows, and the writer that fills its template.

The template engine escapes all text that comes from file names or settings.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from bigcluster.kernels.decode import STATUSES
from bigcluster.planning.stage_names import MANIFOLD
from bigcluster.planning.stages import EMBEDDING_COMPONENTS
from bigcluster.report.lists import PAGE_FAILED, PAGE_MEMBERS
from bigcluster.report.model import Model
from bigcluster.report.pictures import Pictures
from bigcluster.report.scatter import EXPLAINED
from bigcluster.report.texts import number, visible
from bigcluster.report.thumbnails import Sprite
from bigcluster.stages.features import Features
from bigcluster.stages.vectors import KIND_OF_VECTORS
from bigcluster.units import show_bytes, show_count, show_seconds

_TABLES = {
    "labels.csv": "every listed file with its cluster and distances",
    "images.csv": "what became of every listed file",
    "classes.csv": "the most probable classes of every image",
    "summary.json": "this page in numbers",
    "variance.csv": "cumulative variance by number of components",
    "sweep.csv": "every k that was swept",
    "resolutions.csv": "how many groups each resolution gives",
    "run.toml": "the settings, to run it again",
}
# Numbers of components for which the page on PCA has a row. Chosen, not measured.
_SHARES_SHOWN = (1, 2, 5, 10, 20, 50, 100, 150, 200, 300, 500, 750, 800, 1000, 2000, 5000)


@dataclass(frozen=True)
class Column:
    """One cluster in the montage and in the chart of sizes. URLs are relative to report/."""

    name: str
    size: int
    """Number of images."""
    strip_size: tuple[int, int]
    """(width, height) in pixels"""
    center_size: tuple[int, int]
    """(width, height) in pixels"""
    suggested: str
    """The name that the classes of its images suggest; may be empty."""

    @property
    def href(self) -> str:
        """Return the URL of the cluster's page."""
        return f"clusters/{self.name}.html"

    @property
    def center(self) -> str:
        """Return the URL of the center's picture."""
        return f"sprites/{self.name}/center.webp"

    @property
    def strip(self) -> str:
        """Return the URL of the strip of nearest images."""
        return f"sprites/{self.name}/strip.webp"


@dataclass(frozen=True)
class Site:
    """The values that every page shows."""

    version: str
    n_good: int
    n_clusters: int
    n_gone: int
    """As in `model.Listed`; so is `n_alone`."""
    n_alone: int
    digits: int
    """The number of digits of a cluster's name."""
    tile: tuple[int, int]
    """(width, height) of a thumbnail in pixels"""
    pixels: str
    """How the images were decoded, as text."""
    clusters_are_of: str | None
    """What was clustered, such as "what mobilenetv2 saw"; None where it was the pixels."""
    nav: tuple[tuple[str, str], ...]
    """(title, URL relative to report/) of the pages in the navigation."""


class Pages:
    """Fills templates and writes the pages into the folder of the report."""

    def __init__(self, folder: Path, site: Site) -> None:
        self._folder, self._site = folder, site
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("bigcluster.report"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.filters |= {
            "count": show_count,
            "bytes": show_bytes,
            "seconds": show_seconds,
            "number": number,
        }

    def write(self, template: str, page: str, values: dict[str, Any]) -> None:
        """Fill templates/<template>.html.j2 with the values and write <page>, a path relative to the report."""
        path = self._folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        root = "../" * page.count("/")
        text = self._environment.get_template(f"{template}.html.j2").render(
            site=self._site, root=root, here=page, **values
        )
        path.write_text(text, encoding="utf-8")


_DIGITS = 12
"""Digits of a digest on a page: enough to tell files apart. Chosen, not measured."""
_RESIZED = {
    "crop": "the largest middle part of each",
    "squash": "each one stretched to it",
    "pad": "each one whole, with its edges repeated",
}


def clusters_are_of(features: Features) -> str | None:
    """Return what was clustered, in words that go on from "of"; None where it was the pixels."""
    if features.are_pixels:
        return None
    of_vectors = features.kind == KIND_OF_VECTORS
    return visible(f"the vectors in {features.name}" if of_vectors else f"what {features.name} saw")


def features_in_words(features: Features) -> list[tuple[str, str]]:
    """Return what the first page says of features that are not the pixels, as pairs of a term and its value."""
    facts = features.facts
    origin = "taken from" if features.kind == KIND_OF_VECTORS else "made by"
    pairs = [("Features", f"{show_count(features.rows.shape[1])} of each image, {origin} {features.name}")]
    if "sha256" in facts:
        licence = f", licence: {facts['licence']}" if "licence" in facts else ""  # vectors have none
        pairs.append(("Its file", f"SHA-256 {facts['sha256'][:_DIGITS]}…{licence}"))
    if "layer" in facts:
        pooled = "" if facts["pool"] == "none" else f", pooled by {facts['pool']}"
        pairs.append(("Taken from", f"the tensor {facts['layer']}{pooled}"))
    if "input" in facts:
        size = facts["input"].replace("x", " × ")
        gray = ", in grey" if facts["gray"] else ""
        pairs.append(("It saw", f"pictures of {size} pixels: {_RESIZED[facts['resize']]} ({facts['resize']}){gray}"))
    if features.unit_length:
        pairs.append(("Scaled", "features and scores to the length 1, so that directions are compared"))
    return [(term, visible(value)) for term, value in pairs]


def places_in_words(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the first page says of places by t-SNE or UMAP, as pairs of a term and its value; none without."""
    facts = summary["stages"].get(MANIFOLD)
    if facts is None:
        return []
    n_fitted, n_placed = facts["n_fitted"], summary["counts"]["ok"] - facts["n_fitted"]
    others = f"; {show_count(n_placed)} images were placed among {show_count(n_fitted)} fitted ones" * (n_placed > 0)
    return [
        (
            "Clustered",
            visible(f"places in {facts['n_dimensions']} dimensions, by {facts['solver']} of the scores{others}"),
        )
    ]


def overview(model: Model, columns: list[Column], features: Features, *, has_memory_plot: bool) -> dict[str, Any]:
    """Return the values of index.html.

    columns : those of the largest clusters, the largest first. features : what was clustered; where these are not the
    pixels, the pictures on top are not the centers, but the mean pictures of the clusters.
    """
    summary = model.summary
    stages = _stages(summary)
    sizes = model.members.sizes
    return {
        "images": visible(str(summary["settings"].get("images", ""))),
        "counts": summary["counts"],
        "n_components": summary["n_components"] if model.variance_ratio is not None else None,
        "share": summary["explained_variance_ratio"],
        "inertia": summary["inertia"],
        "modularity": summary.get("modularity"),
        "resolution": summary["settings"].get("resolution"),
        "advice": summary["advice"],
        "memory": summary["memory"],
        # Summaries of earlier versions have no total.
        "seconds": summary.get("seconds", sum(stage["seconds"] for stage in stages)),
        "stages": stages,
        "columns": columns,
        "centers_are_pictures": features.are_pixels and not model.has_places,
        "features": ([] if features.are_pixels else features_in_words(features)) + places_in_words(summary),
        "n_more": len(sizes) - len(columns),
        "next_cluster": f"clusters/{len(columns):0{len(columns[0].name)}d}.html",
        "sizes": _size_chart(columns, sizes),
        "settings": [(name, visible(str(value))) for name, value in summary["settings"].items()],
        "versions": sorted(summary["versions"].items()),
        "tables": [(name, what) for name, what in _TABLES.items() if (model.out / name).is_file()],
        "has_memory_plot": has_memory_plot,
    }


def _stages(summary: dict[str, Any]) -> list[dict[str, Any]]:
    total = sum(stage["seconds"] for stage in summary["stages"].values()) or 1.0
    budget = summary["memory"]["budget_bytes"]
    longest = max((stage["seconds"] for stage in summary["stages"].values()), default=0) or 1.0
    rows, start = [], 0.0
    for name, stage in summary["stages"].items():
        width = 1000 * stage["seconds"] / total
        rows.append(
            {
                "name": name,
                "solver": stage.get("solver", ""),
                "reused": stage.get("reused", False),
                "seconds": stage["seconds"],
                "projected": stage["projected_peak_bytes"],
                "measured": stage["measured_peak_bytes"],
                "share": stage["seconds"] / longest,
                "of_promise": min(1.0, stage["measured_peak_bytes"] / (stage["projected_peak_bytes"] or budget)),
                "start": start,
                "width": width,
            }
        )
        start += width
    return rows


def _size_chart(columns: list[Column], sizes: Any) -> dict[str, Any]:
    largest = int(sizes.max())
    bars = [
        {"href": c.href, "name": c.name, "size": c.size, "height": 100 * c.size / largest, "suggested": c.suggested}
        for c in columns
    ]
    half = int(np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)) + 1
    return {
        "width": 10 * len(columns),
        "bars": bars,
        "largest": largest,
        "smallest": int(sizes.min()),
        "half": "largest cluster" if half == 1 else f"{half:,} largest clusters",
    }


def pca_page(model: Model, n_features: int, name: str, shown: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the values of pca.html.

    n_features : the number of features of an image. name : what made the features. shown : the pictures, from
    `pca_pictures`; None where components are no pictures.
    """
    assert model.variance_ratio is not None
    summary, cumulative = model.summary, np.cumsum(model.variance_ratio)
    n_components = int(summary["n_components"])
    numbers = sorted({*(n for n in _SHARES_SHOWN if n <= len(cumulative)), n_components})
    return {
        "n_components": n_components,
        "share": float(cumulative[n_components - 1]),
        "target": None if summary["settings"].get("components") else summary["settings"].get("variance"),
        "asked": bool(summary["settings"].get("components")),
        "n_features": n_features,
        "made_by": name,
        "most_by_default": EMBEDDING_COMPONENTS,
        "table": [(n, float(cumulative[n - 1]), n > n_components) for n in numbers],
        "shown": shown,
    }


def pca_pictures(model: Model, pictures: Pictures, eigen: Sprite, rebuilt: Sprite, names: list[str]) -> dict[str, Any]:
    """Return the values of the pictures of pca.html.

    eigen, rebuilt : the sprites of the eigen-images and of the reconstructions. names : paths of the rebuilt images.
    """
    assert model.variance_ratio is not None
    height, width = pictures.mean.shape[:2]
    return {
        "size": (width, height),
        "eigen": eigen,
        "shares": model.variance_ratio[: len(pictures.eigen)].tolist(),
        "steps": pictures.steps,
        "sprite": rebuilt,
        "rebuilt": [visible(name) for name in names],
    }


def k_page(model: Model) -> dict[str, Any]:
    """Return the values of k.html."""
    in_use, inertia = model.members.n_clusters, model.summary["inertia"]
    rows = [] if model.sweep is None else model.sweep.rows
    same_k = next((row for row in rows if row["k"] == in_use), None)
    return {
        "sweep": model.sweep,
        "in_use": in_use,
        "inertia": inertia,
        # Another fit of the same k, from other starts, has another inertia.
        "shown": same_k is not None and inertia is not None and math.isclose(same_k["inertia"], inertia, rel_tol=1e-9),
        "same_k": same_k is not None,
        "resolution": model.summary["settings"].get("resolution"),
        "out": shlex.quote(visible(str(model.out.absolute()))),
    }


def failures_page(model: Model) -> dict[str, Any]:
    """Return the values of failures.html."""
    return {"counts": model.summary["counts"], "meanings": STATUSES, "page_failed": PAGE_FAILED}


def map_page(model: Model, features: Features, kind: str, n_rows: int, *, of_members: bool) -> dict[str, Any]:
    """Return the values of map.html.

    kind : the setting `report.map`. n_rows : the number of points. of_members : whether the map takes its thumbnails
    from the sprites of the clusters' lists; else it has sprites of its own.
    """
    return {
        "n_rows": n_rows,
        "explained": EXPLAINED[kind],
        "clusters_are_of": clusters_are_of(features),
        "thumbs": "members" if of_members else "map",
        "page": PAGE_MEMBERS,
        "sizes": " ".join(map(str, model.members.sizes.tolist())) if of_members else None,
    }
