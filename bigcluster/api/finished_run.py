"""A finished run in Python: its tables and arrays, and the calls that continue from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigcluster.api.arguments import Images, PathLike, Sets
from bigcluster.errors import DamagedError, StoreError, UsageError
from bigcluster.files import targets
from bigcluster.files.bounded import check_table
from bigcluster.files.paths import local_path

if TYPE_CHECKING:
    import dask.array as da
    import pandas as pd

    from bigcluster.store import Store


class Run:
    """The results of a finished run in OUT. Every table and array is read when its property is used."""

    def __init__(self, out: PathLike) -> None:
        """Open the run. Raises StoreError where `out` holds no finished run."""
        self.out = Path(local_path("OUT", out)).absolute()  # the path stays right when the current folder changes
        if not (self.out / "summary.json").is_file():
            raise StoreError(
                f"{self.out} holds no finished run; run `bigcluster run IMAGES --out {self.out} -k 10` first"
            )

    @property
    def summary(self) -> dict[str, Any]:
        """Return the content of summary.json: counts, settings, sizes, times and memory of the run."""
        from bigcluster.outputs.summary import read_summary

        return read_summary(self.out / "summary.json")

    @property
    def labels(self) -> pd.DataFrame:
        """Return labels.csv: one row per listed file, in listing order. A failed file has the label -1."""
        path = self._table("labels.csv")
        from bigcluster.outputs.frames import NUMBERS_OF_LABELS, read_table

        return read_table(path, NUMBERS_OF_LABELS)

    @property
    def images(self) -> pd.DataFrame:
        """Return images.csv, the ledger: one row per listed file, with its status and the reason."""
        path = self._table("images.csv")
        from bigcluster.outputs.frames import NUMBERS_OF_IMAGES, read_table

        return read_table(path, NUMBERS_OF_IMAGES)

    def _table(self, name: str) -> Path:
        """Return the path of a table that has a row for every listed file.

        Raises StoreError where the table cannot be read, or is not as bigcluster writes it.
        """
        path, n_rows = self.out / name, int(self.summary["counts"]["listed"])
        try:
            check_table(path, n_rows)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}; run the job again") from error
        return path

    def _store(self) -> Store:
        """Open the store. Raises DamagedError where arrays of the model have other shapes than summary.json says."""
        from bigcluster.store import Store

        store, summary = Store(self.out, create=False), self.summary
        try:
            n_columns = summary.get("n_dimensions") or summary["n_components"]
            n_ok, center_shape = summary["counts"]["ok"], (summary["n_clusters"], n_columns)
            shapes = {"centers": center_shape, "ok": (summary["counts"]["listed"],)}
            row_counts = {} if summary["settings"]["reduce"] == "none" else {"scores": n_ok, "labels": n_ok}
        except (KeyError, TypeError) as error:
            raise StoreError(f"{self.out / 'summary.json'} is not a summary; run the job again") from error
        sizes = {name: store.array(name).shape for name in (*shapes, *row_counts)}
        mismatched = [name for name, size in shapes.items() if sizes[name] != tuple(size)]
        if mismatched or any(sizes[name][0] != n for name, n in row_counts.items()):
            raise DamagedError(
                f"{store.root} holds other arrays than summary.json says: `bigcluster verify {self.out}`"
            )
        return store

    @property
    def scores(self) -> da.Array:
        """Return (n_ok, n_components) float32, the rows that were clustered: good images only, in listing order.

        Where nothing was reduced (reduce = none), these are the features, such as the pixels, (n_ok, n_features). With
        reduce = tsne or umap, `embedding` was made of them, and was clustered in their place.
        """
        from bigcluster.planning.stage_names import INGEST, REDUCE
        from bigcluster.stages.features import load_features
        from bigcluster.stages.ingest import load_ingested

        store, summary = self._store(), self.summary
        if summary["settings"]["reduce"] == "none":
            features = load_features(store, load_ingested(store))
            return features.rows.dask((INGEST, features.fingerprint)).astype("float32")
        return self._stored(store, "scores", REDUCE)[:, : summary["n_components"]]

    @property
    def embedding(self) -> da.Array:
        """Return (n_ok, n_dimensions) float32, the places that t-SNE or UMAP gave the good images, in listing order.

        Raises StoreError where the run had neither (reduce = pca or none).
        """
        from bigcluster.config import MANIFOLDS
        from bigcluster.planning.stage_names import MANIFOLD

        reduced_by = self.summary["settings"]["reduce"]
        if reduced_by not in MANIFOLDS:
            raise StoreError(f"{self.out} was clustered with reduce = {reduced_by}: there is no embedding")
        return self._stored(self._store(), "embedding", MANIFOLD)

    @property
    def pixels(self) -> da.Array:
        """Return (n_ok, n_values) uint8, the stored pixels of the good images, in listing order.

        A row holds a picture of `summary["image_size"]`, row by row, in color its three values side by side. Every
        process that sees the folder of the store can compute it, such as the workers of a dask cluster. After a later
        run into OUT has changed the rows, that raises StoreError; `bc.open(OUT).pixels` has the new ones.
        """
        from bigcluster.planning.stage_names import INGEST
        from bigcluster.stages.ingest import load_ingested, pixel_rows

        store = self._store()
        ingested = load_ingested(store)
        return pixel_rows(store, ingested.ok).dask((INGEST, ingested.fingerprint))

    def _stored(self, store: Store, name: str, stage: str) -> da.Array:
        """Return an array that a stage has stored, in its stored chunks."""
        from bigcluster.store import StoredRows

        mark = store.mark(stage)
        if mark is None:
            raise StoreError(f"{store.root} holds no finished {stage}; run the job to its end first")
        return StoredRows(store.array(name)).dask((stage, mark.fingerprint))

    @property
    def centers(self) -> Any:
        """Return (n_clusters, n_columns) float64, the centers in the order of the labels, in the space of `scores` or
        `embedding`."""
        return self._store().load("centers")

    @property
    def components(self) -> da.Array:
        """Return (n_components, n_features) float32, orthonormal rows: scores = (features - mean) @ components.T.

        The features are the pixels, or what a network or vectors say of each image. Most fits do not compute the
        components. Then the first use of this property computes them, in one pass over the stored features, and stores
        them in OUT. Raises StoreError where nothing was
        reduced (reduce = none).
        """
        from bigcluster.planning.stage_names import REDUCE
        from bigcluster.stages.components import are_stored
        from bigcluster.store import Store

        summary = self.summary
        if summary["settings"]["reduce"] == "none":
            raise StoreError(f"{self.out} was clustered without a reduction (reduce = none): there are no components")
        if not are_stored(Store(self.out, create=False)):
            from bigcluster.api.calls import make_components

            make_components(self.out)
        stored = self._stored(Store(self.out, create=False), "components", REDUCE)
        return stored[: summary["n_components"]]

    @property
    def mean(self) -> Any:
        """Return (n_features,) float64, the mean of the features of all good images.

        Where the features are the pixels, it is the mean picture, row by row, as the pixels are stored.
        """
        from bigcluster.stages.features import load_features
        from bigcluster.stages.ingest import load_ingested
        from bigcluster.store import Store

        store = Store(self.out, create=False)
        if self.summary["settings"]["reduce"] == "none":
            return load_features(store, load_ingested(store)).mean
        return store.load("mean")

    def sweep(
        self,
        k: int | str | None = None,
        *,
        resolution: float | str | Sequence[float] | None = None,
        memory: str | None = None,
        threads: int | None = None,
        workers: int | None = None,
        scheduler: PathLike | None = None,
        client: Any = None,
        set: Sets = None,
    ) -> pd.DataFrame:
        """Try several numbers of clusters on the stored scores; return inertia, silhouettes and stability of every k.

        k : one number, or several such as "5:20". memory, threads, workers, scheduler, client : as in `run`.
        set : seed, kmeans.* and cluster.* keys only.
        resolution : in place of k, see `bigcluster.sweep`; the table has the number of groups of each.
        The table is also written to OUT/sweep.csv, or OUT/resolutions.csv.
        """
        from bigcluster.api.calls import sweep
        from bigcluster.outputs.frames import read_table

        sweep(
            self.out,
            k,
            resolution=resolution,
            memory=memory,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            client=client,
            set=set,
        )
        return read_table(self.out / ("resolutions.csv" if k is None else "sweep.csv"))

    def predict(
        self,
        images: Images,
        to: PathLike,
        *,
        features: PathLike | None = None,
        exclude: Sequence[str] | str | None = None,
        memory: str | None = None,
        threads: int | None = None,
        workers: int | None = None,
        scheduler: PathLike | None = None,
        client: Any = None,
    ) -> pd.DataFrame:
        """Label new images with the stored model; return the columns of labels.csv and `novelty`.

        images : as in `run`. to : the CSV file that the table is written to; an existing one is replaced.
        features : the vectors of the new images, where the model was made of vectors; default: those of the model.
        exclude : patterns of files that are not listed; default: those of the run. memory, threads, workers, scheduler,
        client : as in `run`.
        Raises UsageError where `to` is a stream.
        """
        from bigcluster.api.calls import predict
        from bigcluster.outputs.frames import NUMBERS_OF_PREDICTIONS, read_table

        target = targets.named("to", to)
        if not targets.check("to", target):
            raise UsageError(f"to must be a file, from which the table is read: {target} is a stream")
        predict(
            self.out,
            images,
            target,
            features=features,
            exclude=exclude,
            memory=memory,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            client=client,
        )
        return read_table(Path(target), NUMBERS_OF_PREDICTIONS)

    def verify(
        self,
        *,
        quick: bool = False,
        memory: str | None = None,
        threads: int | None = None,
        workers: int | None = None,
        scheduler: PathLike | None = None,
        client: Any = None,
    ) -> dict[str, Any]:
        """Check checksums, counts, labels, folders and model; the next run repairs what is damaged.

        quick : read only a sample. memory, threads, workers, scheduler, client : as in `run`. Returns a dict: `ok`, the
        files that are `damaged`, and in `redo` the stages that the next run does again.
        """
        from bigcluster.api.calls import verify

        return verify(
            self.out,
            quick=quick,
            memory=memory,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            client=client,
        )

    def report(
        self,
        *,
        memory: str | None = None,
        threads: int | None = None,
        workers: int | None = None,
        scheduler: PathLike | None = None,
        client: Any = None,
        set: Sets = None,
    ) -> Path:
        """Write the report again; return the path of its index.html.

        memory, threads, workers, scheduler, client : as in `run`. set : report.* keys, such as {"report.map": "tsne"},
        and cluster.* keys.
        """
        from bigcluster.api.calls import report

        written = report(
            self.out,
            memory=memory,
            threads=threads,
            workers=workers,
            scheduler=scheduler,
            client=client,
            set=set,
        )
        return Path(written["report"])

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows: counts, sizes and a small montage."""
        store = self._store()
        from bigcluster.report.notebook import run_html

        return run_html(self.out, self.summary, store)

    def __repr__(self) -> str:
        summary = self.summary
        return f"<bigcluster run {self.out}: {summary['counts']['ok']} images in {summary['n_clusters']} clusters>"
