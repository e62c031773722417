"""What a finished run left in OUT, for Python: tables, arrays, and the commands that go on from there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigcluster import outdir
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
    """What a finished run left in OUT. Everything is read when asked for."""

    def __init__(self, out: PathLike) -> None:
        """Raises StoreError where `out` holds no finished run."""
        self.out = Path(local_path("OUT", out)).absolute()  # it holds when the current folder changes
        if not (self.out / "summary.json").is_file():
            raise StoreError(
                f"{self.out} holds no finished run; run `bigcluster run IMAGES --out {self.out} -k 10` first"
            )

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json."""
        from bigcluster.outputs.summary import read_summary

        return read_summary(self.out / "summary.json")

    @property
    def labels(self) -> pd.DataFrame:
        """labels.csv: one row per listed file, in listing order. A failed file has the label -1."""
        path = self._table("labels.csv")
        from bigcluster.outputs.frames import NUMBERS_OF_LABELS, read_table

        return read_table(path, NUMBERS_OF_LABELS)

    @property
    def images(self) -> pd.DataFrame:
        """images.csv, the ledger: one row per listed file, with its status and the reason."""
        path = self._table("images.csv")
        from bigcluster.outputs.frames import NUMBERS_OF_IMAGES, read_table

        return read_table(path, NUMBERS_OF_IMAGES)

    def _table(self, name: str) -> Path:
        """A table with a row for every listed file. Raises StoreError where it is not one of ours."""
        path, n_rows = self.out / name, int(self.summary["counts"]["listed"])
        try:
            check_table(path, n_rows)
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}; run the job again") from error
        return path

    def _store(self) -> Store:
        """Raises DamagedError where the arrays of the model are not of the sizes that summary.json says."""
        from bigcluster.store import Store

        store, found = Store(self.out / outdir.STORE, create=False), self.summary
        try:
            n_ok, shape = found["counts"]["ok"], (found["n_clusters"], found["n_components"])
            wanted = {"centers": shape, "ok": (found["counts"]["listed"],)}
            rows = {} if found["settings"]["reduce"] == "none" else {"scores": n_ok, "labels": n_ok}
        except (KeyError, TypeError) as error:
            raise StoreError(f"{self.out / 'summary.json'} is not a summary; run the job again") from error
        sizes = {name: store.array(name).shape for name in (*wanted, *rows)}
        others = [name for name, size in wanted.items() if sizes[name] != tuple(size)]
        if others or any(sizes[name][0] != n for name, n in rows.items()):
            raise DamagedError(
                f"{store.root} holds other arrays than summary.json says: `bigcluster verify {self.out}`"
            )
        return store

    @property
    def scores(self) -> da.Array:
        """(n_samples, n_components) float32: the rows that were clustered, good images only, in listing order."""
        store = self._store()
        import numpy as np

        found = self.summary
        if found["settings"]["reduce"] == "none":
            return store.dask("pixels")[store.load("ok")].astype(np.float32)
        return store.dask("scores")[:, : found["n_components"]]

    @property
    def centers(self) -> Any:
        """(n_clusters, n_components) float64, in the order of the labels."""
        return self._store().load("centers")

    @property
    def components(self) -> da.Array:
        """(n_components, n_values) float32, one picture a row, orthonormal: scores = (pixels - mean) components'.

        Most fits leave them for later: the first call makes them, in one pass over the stored pixels, and keeps them.
        Raises StoreError where nothing was reduced (reduce = none).
        """
        from bigcluster.stages.components import are_stored
        from bigcluster.store import Store

        found = self.summary
        if found["settings"]["reduce"] == "none":
            raise StoreError(f"{self.out} was clustered without a reduction (reduce = none): there are no components")
        if not are_stored(Store(self.out / outdir.STORE, create=False)):
            from bigcluster.api.calls import make_components

            make_components(self.out)
        return Store(self.out / outdir.STORE, create=False).dask("components")[: found["n_components"]]

    @property
    def mean(self) -> Any:
        """(n_values,) float64: the mean picture of all good images, row by row as the pixels are."""
        from bigcluster.stages.ingest import load_ingested
        from bigcluster.stages.novelty import mean_picture
        from bigcluster.store import Store

        store = Store(self.out / outdir.STORE, create=False)
        if self.summary["settings"]["reduce"] == "none":
            return mean_picture(load_ingested(store))
        return store.load("mean")

    def sweep(
        self, k: int | str, *, memory: str | None = None, workers: int | None = None, set: Sets = None
    ) -> pd.DataFrame:
        """sweep.csv: inertia, both silhouettes and stability for every k, such as "5:20", on the stored scores.

        set : seed and kmeans.* keys.
        """
        from bigcluster.api.calls import sweep
        from bigcluster.outputs.frames import read_table

        sweep(self.out, k, memory=memory, workers=workers, set=set)
        return read_table(self.out / "sweep.csv")

    def predict(
        self,
        images: Images,
        to: PathLike,
        *,
        exclude: Sequence[str] | str | None = None,
        memory: str | None = None,
        workers: int | None = None,
    ) -> pd.DataFrame:
        """Labels of new images by the stored model, also written to `to`: the columns of labels.csv and `novelty`.

        images : as in `run`; to : a CSV file, replaced where it exists; exclude : patterns of what is not listed, by
        default those of the run.
        """
        from bigcluster.api.calls import predict
        from bigcluster.outputs.frames import NUMBERS_OF_PREDICTIONS, read_table

        target = targets.named("to", to)
        if not targets.check("to", target):
            raise UsageError(f"to must be a file, from which the table is read: {target} is a stream")
        predict(self.out, images, target, exclude=exclude, memory=memory, workers=workers)
        return read_table(Path(target), NUMBERS_OF_PREDICTIONS)

    def verify(self, *, quick: bool = False, memory: str | None = None, workers: int | None = None) -> dict[str, Any]:
        """Check digests, counts, labels, folders and model: `ok`, and what is damaged and which stages are redone.

        quick : read a sample only. What is damaged is made anew by the next run.
        """
        from bigcluster.api.calls import verify

        return verify(self.out, quick=quick, memory=memory, workers=workers)

    def report(self, *, memory: str | None = None, workers: int | None = None, set: Sets = None) -> Path:
        """Write the report anew; returns its index.html. `set` takes report.* keys, such as {"report.map": "tsne"}."""
        from bigcluster.api.calls import report

        return Path(report(self.out, memory=memory, workers=workers, set=set)["report"])

    def _repr_html_(self) -> str:
        """What a notebook shows: counts, sizes and a small montage."""
        store = self._store()
        from bigcluster.report.notebook import run_html

        return run_html(self.out, self.summary, store)

    def __repr__(self) -> str:
        found = self.summary
        return f"<bigcluster run {self.out}: {found['counts']['ok']} images in {found['n_clusters']} clusters>"
