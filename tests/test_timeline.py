"""Plots: no name of a stage lies on another, whatever the stages took, and no legend on a curve."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bigcluster.outputs.tables import draw_sweep
from bigcluster.profiling import timeline
from bigcluster.profiling.timeline import name_spans
from bigcluster.profiling.watch import Sample, Span
from bigcluster.report.plots import draw_quality
from bigcluster.stages.sweep import Verdict
from bigcluster.units import MIB

NAMES = ("list", "ingest", "reduce", "components", "sweep", "cluster", "output", "report")


@settings(max_examples=8, deadline=None)
@given(st.lists(st.floats(0, 30), min_size=1, max_size=len(NAMES)))
@example([0.0, 0.001, 0.001, 0.001, 30, 0.001, 0.001, 0.001])
@example([0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
def test_no_name_lies_on_another_or_outside(seconds: list[float]) -> None:
    spans, at = [], 1000.0
    for name, took in zip(NAMES, seconds, strict=False):
        spans.append(Span(name, at, at + took))
        at += took
    figure = Figure(figsize=(10, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlim(0, max(at - 1000, 0.1))
    figure.draw_without_rendering()
    n_lines = name_spans(axes, spans, 1000.0)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(spans)
    assert 1 <= n_lines <= len(spans)
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


ROWS = [
    {"k": k, "inertia": 1e9 / k, "simplified_silhouette": s, "silhouette_sq": 1 - s, "stability": t}
    for k, s, t in ((2, 0.0, 1.0), (3, 1.0, 0.0), (4, 0.0, 1.0), (5, 1.0, 0.5))
]
"""Curves from corner to corner: within the axes there is no room for a legend."""


def draw_profile(folder: Path) -> None:
    samples = [Sample(float(i), MIB * (i % 5 + 1) * 40.0) for i in range(30)]
    timeline._draw(folder / "t.png", samples, [Span("ingest", 0, 29)], 400 * MIB, {"numpy": samples}, {})


@pytest.mark.parametrize(
    "draw",
    [
        lambda folder: draw_sweep(ROWS, 3, "an elbow"),
        lambda folder: draw_quality(folder / "q.svg", Verdict(ROWS, 3, "an elbow")),
        draw_profile,
    ],
    ids=["sweep.png", "k.html", "timeline.png"],
)
def test_no_legend_lies_on_a_curve(
    draw: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr("bigcluster.report.plots._themed", lambda svg: svg)
    draw(tmp_path)
    (figure,) = drawn
    figure.draw_without_rendering()
    legends = [*figure.legends, *filter(None, (axes.get_legend() for axes in figure.axes))]
    assert len(legends) == 1
    box = legends[0].get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
    assert min(box.x0, box.y0) >= 0, "nothing of it is cut off"
    assert box.x1 <= figure.bbox.x1
