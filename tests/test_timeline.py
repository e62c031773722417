"""The picture of a profile: no name of a stage lies on another, whatever the stages took."""

from __future__ import annotations

from itertools import combinations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bigcluster.profiling.timeline import name_spans
from bigcluster.profiling.watch import Span

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
