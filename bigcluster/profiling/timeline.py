"""A profile as a table and as a picture: memory and stages over time, with the budget as a line.

Another process draws the picture. The reason: matplotlib reads settings from the current folder of the process that
imports it, and the current folder of the caller may be a folder of pictures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from bigcluster.errors import BigclusterError
from bigcluster.outputs.tables import write_csv
from bigcluster.profiling.watch import Sample, Span
from bigcluster.runtime.processes import absolute, start_python
from bigcluster.units import MIB, show_bytes

LINE_SHARE = 0.05
"""Height of a line of stage names, as a share of the height of the axes. Chosen, not measured."""
_OTHERS = ("#d35400", "#1e8449")
"""Colours of the naive ways."""


def stage_at(time: float, spans: Sequence[Span]) -> str:
    """Return the stage that ran at a time, in Unix seconds. The name is empty where no stage ran."""
    return next((span.name for span in spans if span.start <= time <= span.stop), "")


def write_timeline(path: Path, series: Mapping[str, Sequence[Sample]], spans: Sequence[Span]) -> None:
    """Write a CSV file with seconds since the first sample, stage, bytes, and the process.

    series : the samples by process, the first one those of all processes together.
    """
    first = next(iter(series.values()))[0].time
    rows = (
        (f"{s.time - first:.3f}", stage_at(s.time, spans), round(s.n_bytes), process)
        for process, samples in series.items()
        for s in samples
    )
    write_csv(path, ("seconds", "stage", "bytes", "process"), rows)


def draw_timeline(
    path: Path,
    samples: Sequence[Sample],
    spans: Sequence[Span],
    budget_bytes: int,
    others: Mapping[str, Sequence[Sample]],
    processes: Mapping[str, Sequence[Sample]],
) -> None:
    """Draw a PNG file: the memory of the run, its stages as bands, the budget as a dashed line.

    others : the samples of the naive ways by name, drawn as thin lines. processes : those of single processes of the
    run, drawn dotted; those of workers are samples of the time in which they worked. Raises BigclusterError where the
    process that draws fails.
    """
    request = {
        "path": absolute(path),
        "samples": [astuple(sample) for sample in samples],
        "spans": [astuple(span) for span in spans],
        "budget_bytes": budget_bytes,
        "others": {name: [astuple(sample) for sample in other_samples] for name, other_samples in others.items()},
        "processes": {name: [astuple(sample) for sample in of_one] for name, of_one in processes.items()},
    }
    pipe = subprocess.PIPE
    with start_python(
        "bigcluster.profiling.timeline", stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace"
    ) as process:
        _, errors = process.communicate(json.dumps(request))
    if process.returncode != 0:
        last = next(iter(reversed(errors.splitlines())), f"exit status {process.returncode}")
        raise BigclusterError(f"{path.name} could not be drawn: {last}")


def main() -> None:
    """Draw the picture of the JSON request on stdin. This is the main program of the process that draws."""
    request = json.load(sys.stdin)
    _draw(
        Path(request["path"]),
        [Sample(*sample) for sample in request["samples"]],
        [Span(*span) for span in request["spans"]],
        request["budget_bytes"],
        {name: [Sample(*sample) for sample in other_samples] for name, other_samples in request["others"].items()},
        {name: [Sample(*sample) for sample in of_one] for name, of_one in request["processes"].items()},
    )


def _draw(
    path: Path,
    samples: Sequence[Sample],
    spans: Sequence[Span],
    budget_bytes: int,
    others: Mapping[str, Sequence[Sample]],
    processes: Mapping[str, Sequence[Sample]],
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the system
    axes = figure.add_subplot()
    first = samples[0].time
    axes.plot(
        [s.time - first for s in samples], [s.n_bytes / MIB for s in samples], color="#1f4e79", label="bigcluster"
    )
    for color, (name, other_samples) in zip(_OTHERS, others.items(), strict=False):
        start = other_samples[0].time
        axes.plot(
            [s.time - start for s in other_samples],
            [s.n_bytes / MIB for s in other_samples],
            linewidth=1,
            color=color,
            label=name,
        )
    for number, (name, of_one) in enumerate(processes.items()):
        axes.plot(
            [s.time - first for s in of_one],
            [s.n_bytes / MIB for s in of_one],
            linewidth=1,
            linestyle=(0, (1, 1.5)),
            color=f"C{number}",
            label=name,
        )
    axes.axhline(budget_bytes / MIB, color="#b03a2e", linestyle="--", linewidth=1)
    axes.annotate(
        f"budget {show_bytes(budget_bytes)}",
        (1, budget_bytes / MIB),
        xycoords=("axes fraction", "data"),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        color="#b03a2e",
    )
    for number, span in enumerate(spans):
        start, stop = span.start - first, span.stop - first
        axes.axvspan(start, stop, color="#1f4e79", alpha=0.04 + 0.06 * (number % 2), linewidth=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB, all processes")
    ends = [s.time - series[0].time for series in (samples, *others.values()) for s in (series[-1],)]
    axes.set_xlim(0, max(*ends, *(span.stop - first for span in spans), 0.1) * 1.02)
    if others or processes:
        n_lines = len(others) + len(processes) + 1
        figure.legend(loc="outside lower center", ncols=min(n_lines, 5))  # within the axes it would hide a curve
    figure.draw_without_rendering()  # this places the axes, on which the widths of names in data units depend
    n_lines = name_spans(axes, spans, first)
    highest = max(budget_bytes, *(s.n_bytes for series in (samples, *others.values()) for s in series)) / MIB
    axes.set_ylim(0, highest / (1 - LINE_SHARE * (n_lines + 1.5)))
    figure.savefig(path)


def name_spans(axes: Any, spans: Sequence[Span], first: float) -> int:
    """Write the names of the stages above the curves, in as many lines as are needed so that no two names overlap.

    first : the time of the left edge, in Unix seconds. Returns the number of lines.
    """
    box = axes.get_window_extent()
    gap = 0.006 * box.width  # between two names, at least: a few pixels
    ends: list[float] = []  # the right end of the last name in each line, in pixels
    for span in sorted(spans, key=lambda span: span.start):
        middle = (span.start + span.stop) / 2 - first
        name = axes.text(middle, 1, span.name, transform=axes.get_xaxis_transform(), ha="center", va="top")
        width = name.get_window_extent().width
        centre = float(axes.transData.transform((middle, 0))[0])
        left = min(max(centre - width / 2, box.x0 + gap), box.x1 - gap - width)  # within the axes
        line = next((number for number, end in enumerate(ends) if end + gap <= left), len(ends))
        ends[line : line + 1] = [left + width]
        name.set_x(float(axes.transData.inverted().transform((left + width / 2, 0))[0]))
        name.set_y(1 - LINE_SHARE * (line + 0.4))
    return len(ends)


if __name__ == "__main__":
    main()
