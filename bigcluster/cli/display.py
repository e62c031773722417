"""What a person sees: progress on stderr, and the tables of the results on stdout.

Progress is a live display where stderr is a terminal, and plain lines elsewhere.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from bigcluster.outdir import MANIFEST
from bigcluster.outputs.summary import memory_lines
from bigcluster.runtime.events import RESULT, Event, Listener, Note, StageAdvanced, StageFinished, StageStarted
from bigcluster.units import counted, printable, show_bytes, show_count, show_seconds

PLAIN_SECONDS = 5.0
"""Seconds between two progress lines of a stage where stderr is not a terminal: a log stays short."""


@contextmanager
def listening(*, quiet: bool) -> Iterator[Listener]:
    """Yield the listener that suits this stderr."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield _warn
    elif console.is_terminal:
        with _live(console) as listener:
            yield listener
    else:
        yield Plain(_say)


class Plain:
    """A listener that prints a line for every note, for the end of every stage, and every few seconds in between."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._stage = StageStarted("", 0, "")
        self._began = self._said = 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case StageStarted():
                self._stage, self._began, self._said = event, now, now
            case StageAdvanced() if now - self._said >= PLAIN_SECONDS and 0 < event.done < event.total:
                self._said = now
                rate = event.done / (now - self._began)
                left = show_seconds((event.total - event.done) / rate)
                done = f"{show_count(event.done)} of {show_count(event.total)} {self._stage.unit}"
                self._say(f"{event.stage}: {done}, {rate:,.0f}/s, {left} left")
            case StageFinished():
                self._say(_finished(event, self._stage))
            case Note(level=level) if level != RESULT:
                self._say(_note(event))
            case _:
                pass


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _warn(event: Event) -> None:
    """The listener of `--quiet`: it prints warnings only."""
    if isinstance(event, Note) and event.level == "warning":
        _say(_note(event))


def _finished(event: StageFinished, started: StageStarted) -> str:
    if event.reused:
        return f"{event.stage}: reused"
    unit = {"passes": "pass"}.get(started.unit, started.unit.removesuffix("s")) if event.done == 1 else started.unit
    return f"{event.stage}: {show_count(event.done)} {unit} in {show_seconds(event.seconds)}"


def _note(event: Note) -> str:
    return f"warning: {event.text}" if event.level == "warning" else event.text


@contextmanager
def _live(console: Console) -> Iterator[Listener]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}  {task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with RichProgress(*columns, console=console, transient=True) as bars:
        task: TaskID | None = None
        stage = StageStarted("", 0, "")
        began = 0.0

        def listen(event: Event) -> None:
            nonlocal task, stage, began
            match event:
                case StageStarted():
                    stage, began = event, time.monotonic()
                    task = bars.add_task(event.stage, total=event.total, unit=event.unit, rate="")
                case StageAdvanced() if task is not None:
                    rate = event.done / max(time.monotonic() - began, 1e-3)
                    bars.update(task, completed=event.done, total=event.total, rate=f"{rate:,.0f}/s")
                case StageFinished():
                    if task is not None and not event.reused:
                        bars.remove_task(task)
                        task = None
                    bars.console.print(Text(printable(_finished(event, stage))))
                case Note(level=level) if level != RESULT:
                    style = "yellow" if event.level == "warning" else ""
                    bars.console.print(Text(printable(_note(event)), style=style))
                case _:
                    pass

        yield listen


def unread(counts: dict[str, Any], file: str) -> str:
    """Say how many images could not be read, or have no features, and which file gives the reasons."""
    failures = counts.get("failed_by_status", {})
    kinds = ", ".join(f"{number} {status}" for status, number in failures.items())
    what = "could not be read or described" if "no_features" in failures else "could not be read"
    return f"{counted(counts['failed'], 'image')} {what}{f' ({kinds})' * bool(kinds)}: see {file}"


def _show(console: Console, line: str) -> None:
    """Print one line without wrapping it. Unprintable characters of file names are escaped."""
    console.print(Text(printable(line)), soft_wrap=True)


def print_plan(plan: Any, console: Console) -> None:
    """Print the plan as a table with one line per stage, then its totals."""
    width, height = plan.image_size
    of_threads = "one thread" if plan.threads == 1 else f"{plan.threads} threads"
    where = f"{show_count(plan.workers)} workers of {of_threads}" if plan.joined else counted(plan.threads, "thread")
    _show(
        console,
        f"{counted(plan.n_images, 'image')} of {width}x{height}, {show_count(plan.n_values)} values each; "
        f"{where}; memory budget {show_bytes(plan.budget_bytes)}{' each' if plan.joined else ''}",
    )
    table = Table("stage", "solver", "blocks", "passes", "read", "written", "time", "peak memory")
    for stage in plan.stages:
        table.add_row(
            stage.stage,
            stage.solver,
            f"{stage.block_shape[0]:,} x {stage.block_shape[1]:,}",
            stage.passes,
            show_bytes(stage.bytes_read),
            show_bytes(stage.bytes_written),
            "-" if stage.seconds is None else show_seconds(stage.seconds),
            show_bytes(stage.projected_bytes) if stage.projected_bytes else "-",
        )
    console.print(table)
    for stage in plan.stages:
        _show(console, f"{stage.stage}: {stage.solver}, {stage.why}")
    for line in _plan_notes(plan):
        _show(console, line)


def _plan_notes(plan: Any) -> Iterator[str]:
    """The totals of the plan, and what the plan does not know."""
    yield f"memory: {show_bytes(plan.projected_bytes)} at most, of {show_bytes(plan.budget_bytes)}"
    if plan.joined:
        yield f"memory of the process that starts it, for names and labels: {show_bytes(plan.client_bytes)}"
    if plan.tree_budget_bytes:
        at_most, budget = show_bytes(plan.tree_bytes), show_bytes(plan.tree_budget_bytes)
        yield f"memory of all processes together: {at_most} at most, of {budget}"
    yield f"disk: {show_bytes(plan.disk_bytes)} in the end, {show_bytes(plan.peak_disk_bytes)} at most on the way"
    if plan.seconds is not None:
        like = ", were every worker a core of it" if plan.joined else ""
        yield f"time: about {show_seconds(plan.seconds)}, estimated on this machine on {plan.estimated_on}{like}"
    if plan.is_bound:
        most = plan.stage("reduce").choices["rank"]
        yield f"with a variance target the plan counts with {show_count(most)} components, an upper bound"
    if plan.pictures.looked_at:
        yield f"what decoding needs is taken from the headers of {counted(plan.pictures.looked_at, 'file')}"
    else:
        yield "no header was read: baseline JPEGs of 300x430, or of the target size, are assumed"


def print_summary(summary: dict[str, Any], out: str, console: Console) -> None:
    """Print the result of a run."""
    counts, sizes = summary["counts"], summary["cluster_sizes"]
    share = summary["explained_variance_ratio"]
    clusters = counted(summary["n_clusters"], "cluster")
    quality = (
        f"found by leiden at resolution {summary['settings']['resolution']:g}, modularity {summary['modularity']:.3f}"
        if summary["inertia"] is None
        else f"inertia {summary['inertia']:.6g}"
    )
    lines = [
        f"{show_count(counts['ok'])} of {counted(counts['listed'], 'image')} in {clusters}, {quality}",
        f"sizes, largest first: {_shown_sizes(sizes)}",
    ]
    if names := summary.get("cluster_names"):
        lines.append(f"suggested names: {_shown_names(names)}")
    if share is not None:
        lines.insert(1, f"{summary['n_components']} components hold {share:.1%} of the variance")
    if (places := summary["stages"].get("manifold")) is not None:
        lines.insert(2, f"clustered are places in {places['n_dimensions']} dimensions, by {places['solver']} of them")
    if counts["failed"]:
        lines.append(unread(counts, f"{out}/images.csv"))
    if summary["sweep"] is not None:
        lines.append(f"k = {summary['sweep']['k']}: {summary['sweep']['reason']}; see {out}/sweep.png")
        lines += summary["sweep"]["caveats"]
    lines += summary["advice"]
    lines.append(f"time: {show_seconds(summary['seconds'])}")
    lines += memory_lines(summary["memory"])
    report = f"{out}/report/index.html  " if "report" in summary["stages"] else ""
    lines.append(f"look at: {report}{out}/clusters/  {out}/labels.csv")
    for line in lines:
        _show(console, line)


def print_sweep(sweep: dict[str, Any], out: str, console: Console) -> None:
    """Print the table of a sweep with one line per k, and the suggestion."""
    columns = ("k", "inertia", "simplified_silhouette", "silhouette_sq", "smallest", "largest", "stability")
    table = Table(*columns, "")
    remarks = {sweep["best_silhouette_sq_k"]: "largest silhouette_sq"}
    if sweep["suggested_k"] is not None:
        remarks[sweep["suggested_k"]] = "suggested"
    for row in sweep["rows"]:
        cells = (f"{row[c]:.5g}" if isinstance(row[c], float) else str(row[c]) for c in columns)
        table.add_row(*cells, remarks.get(row["k"], ""))
    console.print(table)
    for line in (sweep["reason"], *sweep["caveats"]):
        _show(console, line)
    _show(console, f"look at: {out}/sweep.png  {out}/sweep.csv")
    _show(console, f"`bigcluster report {out}` puts it into the report")


def print_resolutions(sweep: dict[str, Any], out: str, console: Console) -> None:
    """Print the table of a sweep of resolutions with one line for each."""
    columns = ("resolution", "n_clusters", "modularity", "smallest", "largest")
    table = Table(*columns, "")
    for row in sweep["rows"]:
        cells = (f"{row[c]:.4g}" if isinstance(row[c], float) else str(row[c]) for c in columns)
        table.add_row(*cells, "in use" if row["resolution"] == sweep["in_use"] else "")
    console.print(table)
    _show(console, f"`bigcluster run --out {out} --set resolution=NUMBER` takes one of them; see {out}/resolutions.csv")


def print_profile(profile: Any, console: Console) -> None:
    """Print the memory of the run, that of the naive ways where they were asked for, and the files to look at."""
    table = Table("", "peak memory", "allowed", "time", "ended")
    for way in profile.ways:
        seconds, ended = show_seconds(way.seconds), Text(printable(way.ended))
        table.add_row(way.name, show_bytes(way.peak_bytes), show_bytes(way.limit_bytes), seconds, ended)
    console.print(table)
    for line in memory_lines(profile.summary["memory"]):
        _show(console, line)
    folder = profile.folder
    if profile.summary["counts"]["failed"]:
        _show(console, unread(profile.summary["counts"], f"{folder}/images.csv"))
    _show(console, f"look at: {folder}/timeline.png  {folder}/timeline.csv")
    _show(console, f"`mprof plot {folder}/mprofile.dat` draws it too")


def print_prediction(prediction: dict[str, Any], to: str, console: Console) -> None:
    """Print how many images were labelled, and whether they resemble the images of the model."""
    counts = prediction["counts"]
    lines = [f"{show_count(counts['ok'])} of {counted(counts['listed'], 'image')} labelled: {to}"]
    if prediction["unlike"] is not None:
        share = f"{prediction['beyond_share']:.1%}"
        lines.append(f"{share} are more unusual than 95% of the model's own images (novelty above 1)")
    if counts["failed"]:
        lines.insert(1, unread(counts, to))
    if prediction["unlike"]:
        lines.append("these images are unlike those of the model: their labels say little; see novelty")
    if prediction["close_calls"]:
        n_close = prediction["close_calls"]
        close = f"{show_count(n_close)} {'is' if n_close == 1 else 'are'}"
        if prediction["algorithm"] == "kmeans":
            lines.append(f"{close} equally near to two clusters (margin below 1e-4 of the distance)")
        else:
            lines.append(f"{close} between two groups: as many neighbors are in the runner-up (margin of 0 or less)")
    for line in lines:
        _show(console, line)


def print_verified(report: dict[str, Any], out: str, console: Console) -> None:
    """Print each damaged file with the stage that writes it, the notes, and what to do."""
    lines = [f"damaged: {damage['file']} {damage['what']} (stage {damage['stage']})" for damage in report["damaged"]]
    lines += [f"note: {note}" for note in report["notes"]]
    read = f"{counted(report['files'], 'file')}, {show_bytes(report['bytes_read'])} read"
    read += " (a sample)" if report["sampled"] else ""
    if report["ok"]:
        lines.append(f"{read}: all as they were written")
    else:
        redone = f"; it redoes {', '.join(report['redo'])}" if report["redo"] else ""
        n_damaged = len(report["damaged"])
        # A list of images that was given in Python is all that a run cannot make.
        n_made = sum(damage["file"] != MANIFEST for damage in report["damaged"])
        which = "it" if n_damaged == 1 else "them" if n_made == n_damaged else "the others"
        anew = f"; `bigcluster run --out {out}` makes {which} anew{redone}" if n_made else ""
        lines.append(f"{read}: {n_damaged} damaged{anew}")
    for line in lines:
        _show(console, line)


def _shown_names(names: list[str], most: int = 10) -> str:
    shown = "; ".join(f"{number} {name or '-'}" for number, name in enumerate(names[:most]))
    return shown if len(names) <= most else f"{shown}; ..."


def _shown_sizes(sizes: list[int], most: int = 20) -> str:
    sizes_text = " ".join(str(size) for size in sizes[:most])
    return sizes_text if len(sizes) <= most else f"{sizes_text} ... {sizes[-1]}"
