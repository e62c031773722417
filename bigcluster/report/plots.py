"""Curves as SVG by matplotlib. Text stays text, and colours follow the light or dark theme of the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import StoreError
from bigcluster.files.bounded import read_dicts
from bigcluster.runtime.sampler import MOST_ROWS
from bigcluster.stages.sweep import Verdict
from bigcluster.units import GIB, MIB

# Stand-ins that no palette has: matplotlib writes them out, and `_themed` puts variables in their place.
_INK, _FAINT, _FIRST, _SECOND, _THIRD = "#010203", "#010204", "#010205", "#010206", "#010207"
_LIGHT = {_INK: "#26292c", _FAINT: "#c9ced3", _FIRST: "#1f5f8b", _SECOND: "#b3541e", _THIRD: "#5b6670"}
_DARK = {_INK: "#dfe3e6", _FAINT: "#454b52", _FIRST: "#7db8e0", _SECOND: "#eaa06f", _THIRD: "#9aa5ae"}


@contextmanager
def _figure(path: Path, rows: int = 1, height: float = 3.2) -> Iterator[Any]:
    """Yield axes to draw on, `rows` of them below each other, each `height` inches high; then write the SVG."""
    import matplotlib  # half a second and 40 MiB: only where something is drawn
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
        "axes.edgecolor": _FAINT,
        "grid.color": _FAINT,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "svg.fonttype": "none",
        "svg.hashsalt": "bigcluster",
        "font.size": 10,
        "lines.linewidth": 1.8,
        "font.sans-serif": ["DejaVu Sans"],
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, height * rows), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.subplots(rows, 1, sharex=True)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    path.write_text(_themed(text.getvalue()), encoding="utf-8")


def _themed(svg: str) -> str:
    """Return the same SVG with a colour for the light theme and one for the dark theme. Printed pages are light."""
    names = {stand_in: f"--c{number}" for number, stand_in in enumerate(_LIGHT)}
    for stand_in, name in names.items():
        svg = svg.replace(stand_in, f"var({name})")
    light, dark = (
        "".join(f"{names[stand_in]}:{color};" for stand_in, color in theme.items()) for theme in (_LIGHT, _DARK)
    )
    svg = svg.replace("'DejaVu Sans'", "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans'")
    rules = f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    return svg.replace("<defs>", f"{rules}<defs>", 1)


def draw_variance(path: Path, ratio: NDArray[np.float64], n_components: int, target: float | None) -> None:
    """Draw the cumulative share of the variance over the number of components, and mark the number that was chosen.

    ratio : (n_computed,), the share of each component. target : the setting `variance`, or None.
    """
    shares = np.cumsum(ratio)
    numbers = np.arange(1, len(shares) + 1)
    with _figure(path) as axes:
        axes.plot(numbers, shares, color=_FIRST, solid_capstyle="round")
        axes.fill_between(numbers, shares, color=_FIRST, alpha=0.08, linewidth=0)
        if target is not None:
            axes.axhline(target, color=_THIRD, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot([n_components], [shares[n_components - 1]], "o", color=_SECOND, markersize=7)
        label_on_left = n_components > len(shares) / 2
        axes.annotate(
            f"{n_components} components: {shares[n_components - 1]:.1%}",
            (n_components, shares[n_components - 1]),
            xytext=(-12 if label_on_left else 12, -30),
            textcoords="offset points",
            ha="right" if label_on_left else "left",
            color=_INK,
        )
        axes.set(xlabel="components", ylabel="share of the variance", ylim=(0, 1.02), xlim=(0, len(shares) * 1.02 + 1))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def draw_elbow(path: Path, sweep: Verdict) -> None:
    """Draw the inertia over k, and mark the suggestion where there is one."""
    ks = [row["k"] for row in sweep.rows]
    with _figure(path) as axes:
        axes.plot(ks, [row["inertia"] for row in sweep.rows], color=_FIRST, marker="o", markersize=4)
        _mark_suggestion(axes, sweep)
        axes.set(xlabel="k, number of clusters", ylabel="inertia")
        axes.set_ylim(bottom=0)


def draw_quality(path: Path, sweep: Verdict) -> None:
    """Draw the silhouettes and the stability over k, and mark the suggestion where there is one."""
    ks = [row["k"] for row in sweep.rows]
    with _figure(path) as axes:
        for name, label, color, line in (
            ("silhouette_sq", "silhouette_sq (exact, squared distances)", _FIRST, "-"),
            ("simplified_silhouette", "simplified_silhouette", _THIRD, "--"),
            ("stability", "stability of two starts", _SECOND, ":"),
        ):
            axes.plot(ks, [row[name] for row in sweep.rows], color=color, linestyle=line, marker="o", markersize=3,
                      label=label)  # fmt: skip
        _mark_suggestion(axes, sweep)
        axes.set(xlabel="k, number of clusters", ylabel="score")
        # Below the axes: within them it would lie on a curve wherever those fill the plot.
        axes.figure.legend(loc="outside lower center", ncols=3)


def _mark_suggestion(axes: Any, sweep: Verdict) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)  # of k
    if sweep.suggested_k is not None:
        axes.axvline(sweep.suggested_k, color=_SECOND, linewidth=1, linestyle=(0, (4, 3)))


MOST_PROCESSES = 8
"""Processes whose curves fit into a plot. Chosen, not measured."""


def draw_memory(path: Path, table: Path, budget_bytes: int) -> bool:
    """Draw the memory over time, stage by stage. Return False where there is nothing to draw.

    The rows of the first process in the table, that of all processes of this host, are the curve; on a cluster, workers
    are thin lines. table : memory.csv. Raises StoreError where the table is not as bigcluster writes it.
    """
    if not table.is_file():
        return False
    try:
        series: dict[tuple[str | None, str | None], list[tuple[float, str, int]]] = {}
        for row in islice(read_dicts(table), MOST_PROCESSES * MOST_ROWS):
            process = row.get("host"), row.get("process")
            series.setdefault(process, []).append((float(row["seconds"]), row["stage"], int(row["bytes"])))
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise StoreError(f"{table} is not as it was written ({type(error).__name__}); run the job again") from error
    if not series:
        return False
    rows, *others = series.values()
    seconds, stages, n_bytes = zip(*rows, strict=True)
    unit, name = (GIB, "GiB") if max(n_bytes) >= 2 * GIB else (MIB, "MiB")
    with _figure(path, height=2.4) as axes:
        axes.fill_between(seconds, np.array(n_bytes) / unit, color=_FIRST, alpha=0.15, linewidth=0)
        axes.plot(seconds, np.array(n_bytes) / unit, color=_FIRST, linewidth=1.4)
        for other in others:
            axes.plot([row[0] for row in other], [row[2] / unit for row in other], color=_THIRD, linewidth=0.6)
        axes.set(xlabel="seconds", ylabel=name, xlim=(0, max(seconds[-1], 0.1)))
        if budget_bytes <= 3 * max(n_bytes):  # with a larger one in sight the curve would be too low
            axes.axhline(budget_bytes / unit, color=_SECOND, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
        _name_stages(axes, seconds, stages)
    return True


def _name_stages(axes: Any, seconds: tuple[float, ...], stages: tuple[str, ...]) -> None:
    """Draw a line where each stage begins, and its name where there is room."""
    begins = [i for i, stage in enumerate(stages) if i == 0 or stage != stages[i - 1]]
    for first, last in zip(begins, [*begins[1:], len(stages) - 1], strict=True):
        axes.axvline(seconds[first], color=_FAINT, linewidth=0.8)
        if seconds[last] - seconds[first] > 0.06 * seconds[-1]:  # there is room for its name
            axes.text(seconds[first], axes.get_ylim()[1], f" {stages[first]}", va="top", fontsize=8, color=_INK)
