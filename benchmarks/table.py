"""Results -> Markdown, and the section of benchmarks/README.md that is filled from them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cases import FAMILIES, OURS, SCALES, SCRIPT
from benchmarks.data import RESULTS

README = Path(__file__).parent / "README.md"
BEGIN = "<!-- results: begin (filled by `python -m benchmarks --write-readme`) -->"
END = "<!-- results: end -->"
MIB = 2**20
BUSY = 0.2
FEW_SAMPLES = 10
NOTHING = "-"

Row = dict[str, Any]
Cell = Callable[[Row], str]


def number(name: str, form: str, scale: float = 1) -> Cell:
    """A cell that shows row[name] / scale, or a dash."""

    def cell(row: Row) -> str:
        value = row.get(name)
        return NOTHING if value is None else format(value if scale == 1 else value / scale, form)

    return cell


def _variance(row: Row) -> str:
    if row.get("explained_variance") is not None:
        return f"{row['explained_variance']:.4f}"
    if row.get("asked_variance") is not None:
        return f"at least {row['asked_variance']:.2f} of {row['pixels']}"
    if row.get("reported_variance") is None:
        return NOTHING
    return f"{row['reported_variance']:.4f}, its own word"


def _peak(row: Row) -> str:
    """A run shorter than a second or so was seen too few times to know its peak."""
    shown = f"{row['peak_bytes'] / MIB:.0f}"
    return f"> {shown}" if row.get("samples", FEW_SAMPLES) < FEW_SAMPLES else shown


def _clusters(row: Row) -> str:
    """How many there are, and how many images are in none of them."""
    if row.get("clusters_found") is None:
        return NOTHING
    return f"{row['clusters_found']}" + (f", {row['left_out']} left out" if row.get("left_out") else "")


IMAGE_COLUMNS: dict[str, Cell] = {
    "to scores, s": number("scores_seconds", ".1f"),
    "to labels, s": number("labels_seconds", ".1f"),
    "peak, MiB": _peak,
    "explained variance": _variance,
    "clusters": _clusters,
    "inertia, pixels": number("inertia_pixels", ".5g"),
    "inertia, own scores": number("inertia_scores", ".5g"),
    "ARI with ours": number("ari_ours", ".3f"),
    "ARI with truth": number("ari_truth", ".3f"),
    "passes": number("passes", "d"),
    "read, MiB": number("bytes_read", ".0f", MIB),
    "dask tasks": number("dask_tasks", "d"),
}
ROW_COLUMNS: dict[str, Cell] = {
    "k": number("k", "d"),
    "centers, s": number("fit_seconds", ".2f"),
    "with labels, s": number("labels_seconds", ".2f"),
    "peak, MiB": _peak,
    "clusters": _clusters,
    "iterations": number("n_iter", "d"),
    "inertia": number("inertia", ".5g"),
    "ARI with ours": number("ari_ours", ".3f"),
    "passes": number("passes", "d"),
    "read, MiB": number("bytes_read", ".0f", MIB),
    "dask tasks": number("dask_tasks", "d"),
}

GRAPH_COLUMNS: dict[str, Cell] = {
    "neighbors, s": number("graph_seconds", ".2f"),
    "peak, MiB": _peak,
    "neighbors that ours has": number("neighbors_ours", ".6f"),
    "passes": number("passes", "d"),
    "read, MiB": number("bytes_read", ".0f", MIB),
}


def _columns(found: dict[str, Any]) -> dict[str, Cell]:
    if "n_images" in found["work"]:
        return IMAGE_COLUMNS
    return GRAPH_COLUMNS if "neighbors" in found["work"] else ROW_COLUMNS


def render(found: dict[str, Any]) -> str:
    """One family's results as Markdown."""
    columns = _columns(found)
    lines = [f"### {found['title']} (`--{found['scale']}`, family `{found['family']}`)", "", _work(found), ""]
    lines += [_line(["", *columns]), _line(["---", *("---:" for _ in columns)])]
    for row in found["rows"]:
        if row["ok"]:
            lines.append(_line([row["what"], *(cell(row) for cell in columns.values())]))
        else:
            reason = row["reason"][:240]
            lines.append(_line([row["what"], f"no result: {reason}", *("" for _ in list(columns)[1:])]))
    notes = [*_ratios(found), *_sweeps(found), *_limit(found), *_same(found), *_busy(found)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]).rstrip() + "\n"


def _line(cells: list[str]) -> str:
    """A row; a bar within a cell would end it."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _work(found: dict[str, Any]) -> str:
    work = found["work"]
    if "n_images" in work:
        shape = "x".join(map(str, work["shrink"] or (300, 430)))
        text = f"{work['n_images']:,} images of {shape}"
        text += "" if work["size"] == "native" else f", resized to {work['size']}"
        text += f", {work['components']} components, k = {work['clusters']}"
    elif "neighbors" in work:
        text = f"{work['n_rows']:,} x {work['n_columns']} float32, {work['neighbors']} neighbors by cosine"
    else:
        text = f"{work['n_rows']:,} x {work['n_columns']} float32, "
        text += f"{work['iterations']} iterations" if work["iterations"] else "until all starts have converged"
    repeats = found["repeats"]
    return f"{text}; {found['date']}, " + (
        "one run each" if repeats == 1 else f"medians of {repeats} runs each, slow peers once"
    )


def _ratios(found: dict[str, Any]) -> list[str]:
    """How much faster ours is than the script that most people run."""
    rows = {row["case"]: row for row in found["rows"] if row["ok"]}
    if OURS not in rows or SCRIPT not in rows:
        return []
    notes = []
    for name, until in (("scores_seconds", "scores"), ("labels_seconds", "labels")):
        ratio = rows[SCRIPT][name] / rows[OURS][name]
        memory = rows[SCRIPT]["peak_bytes"] / rows[OURS]["peak_bytes"]
        notes.append(
            f"Up to {until}, the script takes {ratio:.1f} times as long as ours, and {memory:.1f} times its memory."
        )
    other = next((row for row in rows.values() if row["on_scores"] and row.get("inertia_scores")), None)
    if other is not None:
        ratio = rows[OURS]["inertia_scores"] / other["inertia_scores"]
        notes.append(f"Our inertia is {ratio:.4f} of that of scikit-learn's KMeans with 10 starts on the same scores.")
    return notes


def _sweeps(found: dict[str, Any]) -> list[str]:
    """What a sweep saves, and how good its clusters are beside those of others."""
    rows = {row["case"]: row for row in found["rows"] if row["ok"] and "inertias" in row}
    ours, fits, other = (rows.get(name) for name in (f"{OURS}-20", "ours-fits-20", "sklearn-20"))
    streamed, alone = rows.get("ours-streamed-20"), rows.get("ours-fits-streamed-20")
    notes = []
    if ours and fits:
        notes.append(f"A sweep takes {ours['fit_seconds'] / fits['fit_seconds']:.2f} of the time of its fits.")
    if streamed and alone:
        ratio = streamed["bytes_read"] / alone["longest_bytes_read"]
        notes.append(f"Streamed, it reads {ratio:.2f} of the bytes of the longest single fit.")
    if ours and other:
        worst = max(mine / theirs for mine, theirs in zip(ours["inertias"], other["inertias"], strict=True))
        notes.append(f"Its inertia is at most {worst:.4f} of scikit-learn's best of 3, at any k.")
    return notes


def _limit(found: dict[str, Any]) -> list[str]:
    limit = found.get("limit")
    if not limit:
        return []
    if "reason" in limit:
        return [f"No limit T*: {limit['reason']}"]
    parts, rates = limit["parts"], limit["rates"]
    return [
        f"Limit T* = {limit['limit_seconds']:.1f} s: decode {parts['decode']:.2f} + PCA ({limit['pca_way']}) "
        f"{parts['pca']:.2f} + dense finish {parts['finish']:.2f} + k-means {parts['kmeans']:.2f}. "
        f"Ours takes {limit['labels_seconds']:.1f} s, **{limit['distance']:.1f} T***.",
        f"Rates for T*: {rates['decode']:.0f} images/s decoded, {rates['disk_bytes'] / 1e9:.2f} GB/s from disk, "
        f"{rates['gemm'] / 1e9:.0f} Gop/s {rates['gemm_kernel']} ({rates['gemm_float32'] / 1e9:.0f} float32) at the "
        f"shapes of the PCA, {rates['gemm_kmeans'] / 1e9:.0f} Gop/s at those of k-means, "
        f"{rates['memory_bytes'] / 1e9:.0f} GB/s from memory.",
    ]


def _same(found: dict[str, Any]) -> list[str]:
    """Whether our runs under other budgets and kernels came out the same, byte for byte."""
    rows = {row["case"]: row for row in found["rows"] if row["ok"]}
    notes = []
    for name, row in rows.items():
        base = rows.get(_base(name))
        if base is None or base is row:
            continue
        if "graph_digest" in row and "graph_digest" in base:
            notes.append(f"`{name}` and `{base['case']}`: neighbors {_equal(row, base, 'graph_digest')}.")
        if "labels_digest" not in row or "labels_digest" not in base:
            continue
        said = [f"labels {_equal(row, base, 'labels_digest')}"]
        if row.get("scores_digest"):
            said.append(f"scores {_equal(row, base, 'scores_digest')}")
        notes.append(f"`{name}` and `{base['case']}`: {', '.join(said)}.")
    for what, digest in (("Labels", "labels_digest"), ("Neighbors", "graph_digest")):
        changing = [name for name, row in rows.items() if row.get(f"same_{digest}_every_repeat") is False]
        if changing:
            notes.append(f"{what} differ between repeats: {', '.join(changing)}.")
    return notes


def _busy(found: dict[str, Any]) -> list[str]:
    """A warning where the machine was not ours alone."""
    busy = [run["busy_before"] for row in found["rows"] for run in row.get("runs", ())]
    if max(busy, default=0) < BUSY:
        return []
    return [
        f"**Not alone on the machine**: others used {sum(busy) / len(busy):.0%} of the CPUs on average, "
        f"{max(busy):.0%} at most, when a run began; times are longer than they need be."
    ]


def _base(name: str) -> str:
    """The case of ours that this one is compared with: `ours`, or `ours-1000` for a streamed k-means."""
    if not name.startswith("ours"):
        return ""
    last = name.rpartition("-")[2]
    return f"{OURS}-{last}" if last.isdigit() else OURS


def _equal(row: Row, base: Row, name: str) -> str:
    return "the same to the byte" if row[name] == base.get(name) else "differ"


def results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The latest whole results of every family, full before small."""
    files = [folder / f"{scale}-{family.name}.json" for scale in reversed(SCALES) for family in FAMILIES]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def place(found: dict[str, Any]) -> str:
    """Machine and versions, in one paragraph."""
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"Measured on {machine['cpu']} ({machine['cores']} cores; {machine['instructions']}), "
        f"{machine['ram_gib']} GiB, {machine['system']}.\n\nVersions: {versions}.\n"
    )


def write_readme(folder: Path = RESULTS, readme: Path = README) -> None:
    """Put the latest results between the marks of the README. Raises ValueError where there are none, or no marks."""
    found = results(folder)
    if not found:
        raise ValueError(f"{folder} holds no results; run `python -m benchmarks --small` first")
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has lost its marks {BEGIN} and {END}")
    places = [place(each) for each in found]
    parts = []
    for index, each in enumerate(found):
        if index == 0 or places[index] != places[index - 1]:
            parts.append(places[index])
        parts.append(render(each))
    readme.write_text(f"{before}{BEGIN}\n\n" + "\n".join(parts) + f"\n{END}{after}", encoding="utf-8")
