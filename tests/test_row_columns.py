"""Tables of other versions: one that lacks a column gets it once, one that has a column more keeps it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusters import context_of
from conftest import write_pictures
from numpy.typing import NDArray

from bigcluster.catalog import list_images
from bigcluster.config import resolve
from bigcluster.errors import StoreError
from bigcluster.kernels.decode import DecodeSpec, prepare_codecs
from bigcluster.pipeline.run import run
from bigcluster.pipeline.verify import verify
from bigcluster.runtime.resources import Resources
from bigcluster.stages.ingest import Ingested, ingest, tables
from bigcluster.stages.pixel_blocks import Block, replace_table
from bigcluster.stages.row_columns import RowColumn, require
from bigcluster.store import Store

BRIGHTNESS = RowColumn("brightness", "float32", 2)
"""The least and the largest value of a picture: made of stored pixels."""
N_IMAGES, BLOCK_ROWS = 10, 4


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare_codecs()


class Catalog:
    """A folder of pictures, its store, and the blocks of which a column was made since the last question."""

    def __init__(self, folder: Path) -> None:
        self.images, self.out = folder / "images", folder / "out"
        self.files = write_pictures(self.images, N_IMAGES)
        self.made: list[int] = []

    def ingest(self) -> tuple[Store, Ingested]:
        store = Store(self.out)
        context = context_of(store, threads=2)
        listing = list_images(str(self.images), self.out)
        return store, ingest(context, listing, DecodeSpec(6, 4), block_shape=(BLOCK_ROWS, 24), in_flight=2)

    def require(self, store: Store, column: RowColumn = BRIGHTNESS) -> NDArray[Any]:
        def make(block: Block) -> NDArray[Any]:
            self.made.append(block.index)
            pixels = store.array("pixels")[block.start : block.stop]
            return np.stack([pixels.min(axis=1), pixels.max(axis=1)], axis=1)

        return require(store, column, make)

    def since(self) -> list[int]:
        made, self.made = self.made, []
        return sorted(made)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


def expected(store: Store) -> NDArray[Any]:
    pixels = store.load("pixels")
    return np.stack([pixels.min(axis=1), pixels.max(axis=1)], axis=1).astype(np.float32)


def n_tables(store: Store) -> int:
    return len(list((store.out / ".bigcluster" / "ledger").iterdir()))


def test_a_column_that_a_store_lacks_is_made_once(catalog: Catalog) -> None:
    store, done = catalog.ingest()
    np.testing.assert_array_equal(catalog.require(store), expected(store))
    assert catalog.since() == [0, 1, 2]
    np.testing.assert_array_equal(catalog.require(Store(catalog.out)), expected(store))
    assert catalog.since() == []
    assert n_tables(store) == 3, "the tables that lacked it are gone"
    _, after = catalog.ingest()
    assert after.reused
    assert after.fingerprint == done.fingerprint, "no result depends on it"
    assert list(after.read_ledger()) == list(done.read_ledger())


def test_a_killed_call_goes_on_where_it_was(catalog: Catalog) -> None:
    store, _ = catalog.ingest()

    def breaking(block: Block) -> NDArray[Any]:
        if block.index == 1:
            raise KeyboardInterrupt
        return np.zeros((len(block.rows), 2))

    with pytest.raises(KeyboardInterrupt):
        require(store, BRIGHTNESS, breaking)
    catalog.require(store)
    assert catalog.since() == [1, 2]


def test_a_column_follows_the_contents(catalog: Catalog) -> None:
    """New times change nothing. A block with another content is made again, and so are rows that moved."""
    store, _ = catalog.ingest()
    catalog.require(store)
    catalog.since()
    os.utime(catalog.files[5], ns=(7, 7))
    store, done = catalog.ingest()
    assert done.n_decoded == 0
    assert done.read_ledger()[5].mtime_ns == 7
    np.testing.assert_array_equal(catalog.require(store), expected(store))
    assert catalog.since() == []
    shutil.copy(catalog.files[0], catalog.files[5])
    store, done = catalog.ingest()
    assert done.n_decoded == 1
    np.testing.assert_array_equal(catalog.require(store), expected(store))
    assert catalog.since() == [1]
    (catalog.images / "a.png").write_bytes(catalog.files[7].read_bytes())
    catalog.files[9].unlink()
    store, _ = catalog.ingest()
    np.testing.assert_array_equal(catalog.require(store), expected(store))
    assert catalog.since() == [0, 1, 2]


@pytest.mark.parametrize(
    "values",
    [np.zeros(2 * BLOCK_ROWS), np.zeros(2 * BLOCK_ROWS - 1, np.float32), np.zeros(BLOCK_ROWS, np.float32)],
    ids=["type", "length", "values"],
)
def test_a_column_of_another_form_is_made_again(catalog: Catalog, values: NDArray[Any]) -> None:
    store, _ = catalog.ingest()
    block, mark, table = next(iter(tables(store)))
    replace_table(store, block, mark, {**table.columns, BRIGHTNESS.name: values})
    np.testing.assert_array_equal(catalog.require(store), expected(store))
    assert catalog.since() == [0, 1, 2]


def test_what_is_made_has_the_form_of_the_column(catalog: Catalog) -> None:
    store, _ = catalog.ingest()
    with pytest.raises(ValueError, match="brightness"):
        require(store, BRIGHTNESS, lambda block: np.zeros(len(block.rows)))
    assert catalog.require(store).shape == (N_IMAGES, 2)


def test_a_lost_table_is_an_error_and_is_made_by_the_next_run(catalog: Catalog) -> None:
    store, _ = catalog.ingest()
    catalog.require(store)
    next((store.out / ".bigcluster" / "ledger").iterdir()).unlink()
    with pytest.raises(StoreError, match="run again"):
        catalog.require(store)
    store, _ = catalog.ingest()
    np.testing.assert_array_equal(catalog.require(store), expected(store))


def test_columns_and_values_of_a_later_version_are_kept(tmp_path: Path) -> None:
    """A table with a column that this version does not know, and a mark with a value that it does not know."""
    files = write_pictures(tmp_path / "images", 20)
    out, budget = tmp_path / "out", Resources(1 << 30, 2)
    flags = {"images": str(tmp_path / "images"), "out": str(out), "k": 2, "size": 8, "components": 2}
    settings = resolve(flags=flags, sets=("report.write=false",), config=None, kept=None)
    run(settings, budget)
    labels, images = (out / "labels.csv").read_bytes(), (out / "images.csv").read_bytes()
    store = Store(out)
    block, mark, table = next(iter(tables(store)))
    later = np.arange(40, dtype=np.int32)
    replace_table(store, block, mark, {**table.columns, "later": later}, {"later": [1, "two"]})
    assert verify(settings, budget)["damaged"] == []
    assert run(settings, budget)["stages"]["ingest"]["reused"]
    os.utime(files[3], ns=(7, 7))
    assert run(settings, budget)["stages"]["ingest"]["images_decoded"] == 0
    block, mark, table = next(iter(tables(Store(out))))
    assert table.columns["later"].tolist() == later.tolist()
    assert mark.payload["later"] == [1, "two"]
    assert (out / "labels.csv").read_bytes() == labels
    assert (out / "images.csv").read_bytes() != images, "the new time"
    assert verify(settings, budget)["damaged"] == []
