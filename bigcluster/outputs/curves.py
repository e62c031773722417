"""sweep.csv and sweep.png: elbow, silhouettes and stability over k."""

from __future__ import annotations

import io
from typing import Any

from bigcluster.outdir.results import ResultFiles
from bigcluster.outputs.tables import Target, write_csv

COLUMNS = ("k", "inertia", "simplified_silhouette", "silhouette_sq", "smallest", "largest", "stability", "n_iter")


def write(files: ResultFiles, rows: list[dict[str, Any]], suggested_k: int | None, reason: str) -> None:
    """Both files of a sweep."""
    write_sweep(files.text("sweep.csv"), rows)
    files.write("sweep.png", draw_sweep(rows, suggested_k, reason))


def write_sweep(target: Target, rows: list[dict[str, Any]]) -> None:
    """sweep.csv: one row per k."""
    shown = ([f"{row[c]:.6g}" if isinstance(row[c], float) else row[c] for c in COLUMNS] for row in rows)
    write_csv(target, COLUMNS, shown)


def draw_sweep(rows: list[dict[str, Any]], suggested_k: int | None, reason: str) -> bytes:
    """sweep.png, as PNG: inertia above, silhouettes and stability below, the suggestion marked where there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second and 40 MiB: only where it is drawn
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    elbow, quality = figure.subplots(2, 1, sharex=True)
    ks = [row["k"] for row in rows]
    elbow.plot(ks, [row["inertia"] for row in rows], marker="o", color="#1f4e79")
    elbow.set_ylabel("inertia (sum of squared distances)")
    elbow.set_ylim(bottom=0)
    elbow.set_title(reason, fontsize=10, wrap=True)
    for name, label, color in (
        ("silhouette_sq", "silhouette_sq (exact, squared distances)", "#1f4e79"),
        ("simplified_silhouette", "simplified_silhouette", "#7f7f7f"),
        ("stability", "stability (ARI of two starts)", "#c55a11"),
    ):
        quality.plot(ks, [row[name] for row in rows], marker=".", label=label, color=color)
    quality.set_ylabel("score")
    quality.set_xlabel("k, number of clusters")
    quality.legend(fontsize=9)
    for axes in (elbow, quality):
        axes.grid(alpha=0.3)
        if suggested_k is not None:
            axes.axvline(suggested_k, color="#548235", linestyle="--")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    return drawn.getvalue()
