"""The folder OUT/report: all its files are made in a staging folder, which then replaces the old ones file by file."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster._version import __version__
from bigcluster.config import Settings
from bigcluster.files.durable import entries_below, remove_folder
from bigcluster.outdir.tree import OwnedTree
from bigcluster.outputs.folders import cluster_folder
from bigcluster.planning.stage_names import CLUSTER, REPORT, SWEEP
from bigcluster.report import lists, pages, pictures, plots, scatter
from bigcluster.report.cluster_page import ClusterPageWriter
from bigcluster.report.drawing import Canvas, DrawBlocks, draw
from bigcluster.report.lists import MONTAGE_CLUSTERS, PAGE_MEMBERS, Selection, select
from bigcluster.report.model import Model, Written, read_model
from bigcluster.report.pages import Pages, Site
from bigcluster.report.scatter import check_kind
from bigcluster.report.search import write_search
from bigcluster.report.thumbnails import Thumbnails, shrunk_shape, write_picture, write_sprite
from bigcluster.runtime.cluster import Cluster
from bigcluster.runtime.threads import Runtime
from bigcluster.stages.features import load_features
from bigcluster.store import Mark, Store, fingerprint
from bigcluster.store.refs import StoreRef
from bigcluster.store.row_source import spans

FOLDER = "report"
CREATED = "report-pages"
"""Name of the stored list of the files that bigcluster made in OUT/report."""
LAYOUT = 4
"""Version of the pages: where it differs from that of OUT/report, the next run writes the report again."""
_ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Allowance:
    """The memory that the plan grants to the report."""

    in_flight: int
    """Row blocks that are read at once."""
    picture_bytes: int
    """The most bytes of the mixtures as float32; see `pictures.Mixture`."""


def report_fingerprint(store: Store, settings: Settings) -> str:
    """Return the fingerprint of everything that the pages depend on.

    Times and memory do not count: a report that is reused shows those of the run that made it.
    """
    clustered, swept = store.mark(CLUSTER), store.mark(SWEEP)
    return fingerprint(
        stage=REPORT,
        layout=LAYOUT,
        version=__version__,
        clusters=None if clustered is None else clustered.fingerprint,
        sweep=None if swept is None else swept.fingerprint,
        link=settings.link,
        report=asdict(settings.report),
    )


def is_current(out: Path, store: Store, settings: Settings) -> bool:
    """Whether OUT/report is complete and would be written in the same way now."""
    mark = store.mark(REPORT)
    expected = report_fingerprint(store, settings)
    return mark is not None and mark.fingerprint == expected and _tree(out).is_whole()


def write_report(
    out: Path,
    store: Store,
    summary: dict[str, Any],
    settings: Settings,
    allowance: Allowance,
    runtime: Runtime,
    cluster: Cluster,
    on_progress: Callable[[int, int], None],
    tell: Callable[[str], None],
    complete_summary: Callable[[], None] | None = None,
    listed: Written | None = None,
) -> dict[str, Any]:
    """Write OUT/report; return its entry for summary.json. Files in it that bigcluster did not make stay.

    cluster : the workers that read the pixels.
    on_progress : called with the steps done and their total. tell : called with one line for each such file that had
    the name of a page and was moved to OUT/kept. complete_summary : completes `summary` and memory.csv just before the
    page that shows them is written; None where they are complete already. listed : the listed files, where this
    process has written their tables and entries.
    Raises StoreError where OUT holds no finished run, DamagedError where arrays are damaged, and ConfigError where the
    library of the map is missing.
    """
    check_kind(settings.report.map)
    model = read_model(out, store, summary, listed)
    store.marks.remove(REPORT)
    tree = _tree(out)
    staging = tree.new_staging()
    try:
        _Report(staging, store, model, settings, allowance, runtime, cluster, on_progress, complete_summary).make()
        statuses = (entry.stat(follow_symlinks=False) for entry in entries_below(staging))
        sizes = [status.st_size for status in statuses if stat.S_ISREG(status.st_mode)]
        n_files, written = len(sizes), sum(sizes)
        tree.replace_by(staging, tell)
    finally:
        remove_folder(staging)
    store.marks.write(REPORT, Mark(report_fingerprint(store, settings)))
    return {"files": n_files, "bytes_written": written}


def _tree(out: Path) -> OwnedTree:
    return OwnedTree.of(out, FOLDER, CREATED)


class _Report:
    """Makes the files of one report in a folder."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        model: Model,
        settings: Settings,
        allowance: Allowance,
        runtime: Runtime,
        cluster: Cluster,
        on_progress: Callable[[int, int], None],
        complete_summary: Callable[[], None] | None,
    ) -> None:
        self._complete_summary = complete_summary
        self._folder, self._store, self._model = folder, store, model
        self._settings, self._allowance, self._runtime, self._cluster = settings, allowance, runtime, cluster
        self._features = load_features(store, model.ingested)
        self._centers_are_pictures = self._features.are_pixels and not model.has_places
        n_blocks = -(-len(model.ingested.ok) // store.array("pixels").chunks[0])
        self._done, self._total, self._on_progress = 0, n_blocks + model.members.n_clusters + 3, on_progress

    def make(self) -> None:
        """Write all files."""
        kind = self._settings.report.map
        selection = select(
            self._model.members,
            self._model.ingested.row_keys,
            self._settings.report.thumbnails,
            with_map=kind != "none",
        )
        assets = self._folder / "assets"
        assets.mkdir()
        for asset in sorted(_ASSETS.iterdir()):  # contents only: the permissions of the installation do not matter here
            shutil.copyfile(asset, assets / asset.name)
        thumbnails = Thumbnails(self._folder / ".thumbnails", selection.rows, self._model.spec)
        try:
            model_pictures, originals, rebuilt_rows = self._draw(thumbnails)
            site = self._site(thumbnails)
            writer = Pages(self._folder, site)
            columns = self._write_clusters(writer, selection, thumbnails, model_pictures)
            self._write_map(writer, selection, thumbnails)
        finally:
            thumbnails.close()
        self._write_pca(writer, model_pictures, originals, rebuilt_rows)
        self._write_k(writer)
        self._step()
        write_search(self._folder, self._model)
        lists.write_failed(self._folder, self._model)
        writer.write("failures", "failures.html", pages.failures_page(self._model))
        self._step()
        if self._complete_summary is not None:
            self._complete_summary()
        has_plot = self._plot_memory()
        overview = pages.overview(self._model, columns, self._features, has_memory_plot=has_plot)
        writer.write("index", "index.html", overview)
        self._step()

    def _step(self) -> None:
        self._done += 1
        self._on_progress(self._done, self._total)

    def _site(self, thumbnails: Thumbnails) -> Site:
        model, spec = self._model, self._model.spec
        nav = [("Overview", "index.html")]
        nav += [("PCA", "pca.html")] * (model.variance_ratio is not None)
        nav += [("Choosing k", "k.html")]
        nav += [("Map", "map.html")] * (self._settings.report.map != "none")
        nav += [("Failures", "failures.html")]
        how = "" if spec.normalize == "none" else ", each of one mean and scale"
        return Site(
            version=__version__,
            n_good=model.n_good,
            n_clusters=model.members.n_clusters,
            n_gone=model.listed.n_gone,
            n_alone=model.listed.n_alone,
            digits=len(cluster_folder(0, model.members.n_clusters)),
            tile=thumbnails.size,
            pixels=f"{spec.width} × {spec.height}, {'colour' if spec.color else 'grey'}{how}",
            clusters_are_of=pages.clusters_are_of(self._features),
            nav=tuple(nav),
        )

    def _draw(self, thumbnails: Thumbnails) -> tuple[pictures.Pictures, NDArray[np.uint8], list[int]]:
        """Make the thumbnails and the pictures of centers and components in one pass over the pixels.

        Returns the pictures, (n, h, w[, 3]) the images that are rebuilt as they are stored, and their rows.
        """
        model, store, allowance = self._model, self._store, self._allowance
        largest = range(min(pictures.REBUILT_ROWS, model.members.n_clusters))
        rows = [int(model.members.of(number)[0]) for number in largest]
        of_pixels = self._centers_are_pictures
        mixture = pictures.Mixture.of(store, model, rows, allowance.picture_bytes, of_pixels=of_pixels)
        summing = pictures.summed_in_pass(store, model, mixture, of_pixels=of_pixels)
        original_rows = np.array(sorted(rows))
        job = DrawBlocks(
            StoreRef.of(store),
            model.spec,
            thumbnails.rows,
            thumbnails.factor,
            original_rows,
            mixture.factor,
            summing,
            allowance.in_flight,
        )
        originals = np.empty((len(rows), *shrunk_shape(model.spec, mixture.factor)), np.uint8)
        canvas = Canvas(thumbnails, originals, None if summing is None else summing.zeros(), self._step)
        draw(job, canvas, model.ingested.ok, store.array("pixels").chunks[0], self._cluster)
        model_pictures = pictures.pictures_of(store, model, mixture, summing, canvas.sums, allowance.picture_bytes)
        return model_pictures, originals[np.searchsorted(original_rows, rows)], rows

    def _write_clusters(
        self, writer: Pages, selection: Selection, thumbnails: Thumbnails, model_pictures: pictures.Pictures
    ) -> list[pages.Column]:
        cluster_pages = ClusterPageWriter(
            self._folder,
            self._model,
            selection,
            thumbnails,
            model_pictures.centers,
            self._store.load("centers"),
            writer,
            centers_are_pictures=self._centers_are_pictures,
        )
        columns: list[pages.Column] = []
        for column in self._runtime.map(cluster_pages.make, range(self._model.members.n_clusters)):
            if len(columns) < MONTAGE_CLUSTERS:
                columns.append(column)
            self._step()
        return columns

    def _write_pca(
        self, writer: Pages, model_pictures: pictures.Pictures, originals: NDArray[np.uint8], rows: list[int]
    ) -> None:
        model = self._model
        if model.variance_ratio is None:
            return
        n_features = self._features.rows.shape[1]
        n_components = int(model.summary["n_components"])
        target = None if self._settings.components else self._settings.variance
        plots.draw_variance(self._plot("variance"), model.variance_ratio, n_components, target)
        if not self._centers_are_pictures:
            writer.write("pca", "pca.html", pages.pca_page(model, n_features, self._features.name))
            return
        write_picture(self._folder, "pictures/mean.webp", model_pictures.mean)
        eigen = write_sprite(self._folder, "pictures/eigen.webp", model_pictures.eigen, columns=8)
        rebuilt_tiles = np.concatenate(
            [model_pictures.rebuilt, originals[:, np.newaxis]], axis=1
        )  # (rows, steps + 1, ...)
        rebuilt = write_sprite(
            self._folder,
            "pictures/rebuilt.webp",
            rebuilt_tiles.reshape(-1, *rebuilt_tiles.shape[2:]),
            columns=rebuilt_tiles.shape[1],
        )
        names = [model.listed.path(row) for row in rows]
        shown = pages.pca_pictures(model, model_pictures, eigen, rebuilt, names)
        writer.write("pca", "pca.html", pages.pca_page(model, n_features, self._features.name, shown))

    def _write_k(self, writer: Pages) -> None:
        if self._model.sweep is not None:
            plots.draw_elbow(self._plot("elbow"), self._model.sweep)
            plots.draw_quality(self._plot("quality"), self._model.sweep)
        writer.write("k", "k.html", pages.k_page(self._model))

    def _write_map(self, writer: Pages, selection: Selection, thumbnails: Thumbnails) -> None:
        model, kind, rows = self._model, self._settings.report.map, selection.map_rows
        if kind == "none":
            return
        points = scatter.place(kind, self._store, model, self._features, thumbnails, rows, self._runtime.threads)
        places = lists.places_of(model)
        labels = model.members.labels
        lists.write_piece(
            self._folder,
            "map",
            [
                [int(x), int(y), int(labels[row]), int(places[row]), model.listed.path(row)]
                for (x, y), row in zip(points, rows.tolist(), strict=True)
            ],
        )
        of_members = selection.shows_all(model.members)
        if not of_members:
            for page, (start, stop) in enumerate(spans(len(rows), PAGE_MEMBERS)):
                write_sprite(self._folder, f"sprites/map/{page}.webp", thumbnails.read(rows[start:stop]))
        writer.write("map", "map.html", pages.map_page(model, self._features, kind, len(rows), of_members=of_members))

    def _plot_memory(self) -> bool:
        budget = self._model.summary["memory"]["budget_bytes"]
        return plots.draw_memory(self._plot("memory"), self._model.out / "memory.csv", budget)

    def _plot(self, name: str) -> Path:
        path = self._folder / "plots" / f"{name}.svg"
        path.parent.mkdir(exist_ok=True)
        return path
