"""The ingest on several workers leaves the same store as in one process, and no picture ends a worker."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clusters import Sent, context_of
from conftest import encoded, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import conv_net, save
from test_second_look import asks, put_in_front

from benchmarks.stress.possessed import POSSESSED
from bigcluster.catalog import list_images
from bigcluster.errors import ImageSizeError
from bigcluster.kernels.decode import DecodeSpec, prepare_codecs
from bigcluster.runtime.cluster import Cluster
from bigcluster.stages.context import Context
from bigcluster.stages.embedding import open_embedding
from bigcluster.stages.fill import Filling
from bigcluster.stages.ingest import RECIPE, Ingested, ingest
from bigcluster.stages.pixel_blocks import Block
from bigcluster.store import Store

SPEC = DecodeSpec(6, 4)
BLOCK_ROWS = 3
PICTURES = [encoded(picture(seed)) for seed in range(12)]
BAD = [b"", b"this is text", PICTURES[0][: len(PICTURES[0]) // 2], b"\x89PNG" + bytes(40)]


@pytest.fixture(autouse=True, scope="module")
def _codecs() -> None:
    prepare_codecs()


def bring_in(images: Path, out: Path, cluster: Cluster | None, **options: Any) -> Ingested:
    store = Store(out)
    context: Context = context_of(store, cluster=cluster)
    listing = list_images(str(images), out)
    return ingest(context, listing, SPEC, block_shape=(BLOCK_ROWS, 10), in_flight=2, **options)


def content(out: Path) -> dict[str, bytes]:
    """All files of a store, and of the marks and tables beside it."""
    paths = [path for path in out.rglob("*") if path.is_file()]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in paths}


def facts(done: Ingested) -> tuple[Any, ...]:
    sums = (done.fingerprint, done.square_sum, done.column_sums.tolist(), done.ok.tolist(), done.row_keys.tolist())
    return (*sums, done.blocks_reused, done.n_blocks, done.n_decoded, done.closed, list(done.read_ledger()))


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder hold these files; those that do not change keep their time."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
            os.utime(path, (1_700_000_000, 1_700_000_000))


listings = st.dictionaries(
    st.sampled_from([f"{letter}.png" for letter in "abcdefghijklmnop"]),
    st.sampled_from([*PICTURES, *BAD]),
    min_size=1,
)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(listings, min_size=1, max_size=3), st.integers(0, 99))
def test_any_parts_leave_the_same_store(tmp_path: Path, changes: list[dict[str, bytes]], seed: int) -> None:
    for name in ("images", "one", "many"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    for files in changes:
        write(tmp_path / "images", files)
        one = bring_in(tmp_path / "images", tmp_path / "one", None)
        cluster = Sent(seed)
        many = bring_in(tmp_path / "images", tmp_path / "many", cluster)
        assert facts(many) == facts(one)
        assert content(tmp_path / "many") == content(tmp_path / "one")
        assert cluster.largest_bytes < 5000, "names and records travel through OUT"
    # New times of the same contents are confirmed on the workers too.
    for path in (tmp_path / "images").iterdir():
        os.utime(path, (1_800_000_000, 1_800_000_000))
    one = bring_in(tmp_path / "images", tmp_path / "one", None)
    many = bring_in(tmp_path / "images", tmp_path / "many", Sent(seed))
    assert facts(many) == facts(one)
    assert content(tmp_path / "many") == content(tmp_path / "one")


class Doubled(Sent):
    """A part is worked on twice, as where its worker was silent for a while."""

    def _run(self, job: Any, *arguments: Any) -> Any:
        super()._run(job, *arguments)
        return super()._run(job, *arguments)


def test_a_block_that_another_worker_has_filled_is_not_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "images", {f"{i}.png": data for i, data in enumerate(PICTURES)})
    filled: list[int] = []

    def counted(filling: Filling, block: Block) -> Any:
        filled.append(block.index)
        return fill(filling, block)

    fill = Filling.fill
    monkeypatch.setattr(Filling, "fill", counted)
    one = bring_in(tmp_path / "images", tmp_path / "one", None)
    n_blocks = len(filled)
    twice = bring_in(tmp_path / "images", tmp_path / "twice", Doubled(2))
    assert len(filled) == 2 * n_blocks
    assert facts(twice) == facts(one)
    assert content(tmp_path / "twice") == content(tmp_path / "one")


def test_an_image_of_another_size_ends_the_ingest_on_every_cluster(tmp_path: Path) -> None:
    write(tmp_path / "images", {f"{i}.png": data for i, data in enumerate(PICTURES)})
    for name, cluster in (("one", None), ("many", Sent(1))):
        context = context_of(Store(tmp_path / name), cluster=cluster)
        context = replace(context, settings=replace(context.settings, size="native"))
        listing = list_images(str(tmp_path / "images"), tmp_path / name)
        with pytest.raises(ImageSizeError):
            ingest(context, listing, SPEC, block_shape=(BLOCK_ROWS, 10), in_flight=2)
        assert context.store.mark(RECIPE) is None
        assert not list((tmp_path / name / ".bigcluster" / "ledger").glob("names-*"))


@pytest.mark.slow
def test_a_worker_that_nobody_starts_again_decodes_in_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would end or block the worker ends a child, and costs its own row."""
    put_in_front(tmp_path / "possessed", POSSESSED, monkeypatch)
    wishes = {f"bad-{wish}.png": asks(wish, 50 + i) for i, wish in enumerate(("segfault", "abort", "exit", "hang"))}
    good = {f"{i}.png": data for i, data in enumerate(PICTURES)}
    damaged = {f"damaged-{i}.png": data for i, data in enumerate(BAD)}
    write(tmp_path / "images", good | damaged | wishes)
    stderr = os.fstat(2)
    context = context_of(Store(tmp_path / "out"), cluster=Sent(3, n_workers=1, threads=2, in_children=True))
    image = replace(context.settings.image, timeout=3.0)
    context = replace(context, settings=replace(context.settings, image=image))
    listing = list_images(str(tmp_path / "images"), tmp_path / "out")
    done = ingest(context, listing, SPEC, block_shape=(BLOCK_ROWS, 10), in_flight=2)
    found = dict(zip(listing.names, done.read_ledger(), strict=True))
    assert {name: found[name].status for name in wishes} == {
        "bad-segfault.png": "crashed",
        "bad-abort.png": "crashed",
        "bad-exit.png": "crashed",
        "bad-hang.png": "timeout",
    }
    assert os.path.samestat(os.fstat(2), stderr), "stderr of the worker was not touched"
    # All others are as one process leaves them.
    write(tmp_path / "images", good | damaged)
    bring_in(tmp_path / "images", tmp_path / "one", None)
    here = list_images(str(tmp_path / "images"), tmp_path / "one")
    rows = [list(listing.names).index(name) for name in here.names]
    np.testing.assert_array_equal(context.store.load("pixels")[rows], Store(tmp_path / "one").load("pixels"))
    expected = dict(zip(here.names, bring_in(tmp_path / "images", tmp_path / "one", None).read_ledger(), strict=True))
    assert {name: found[name] for name in here.names} == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["network", "vectors"])
def test_features_are_the_same_on_any_cluster(tmp_path: Path, kind: str) -> None:
    """Workers open the network, or the vectors, by themselves."""
    names = [f"{i}.png" for i in range(5)]
    write(tmp_path / "images", dict(zip(names, PICTURES, strict=False)) | {"bad.png": b""})
    if kind == "network":
        source = save(tmp_path, conv_net())
    else:
        source = tmp_path / "vectors.parquet"
        vectors = np.random.default_rng(0).random((len(names), 5)).astype(np.float32)
        pq.write_table(pa.table({"path": names, "vector": vectors.tolist()}), source)
    done = {}
    for name, cluster in (("one", None), ("many", Sent(4, n_workers=1, in_children=kind == "network"))):
        context = context_of(Store(tmp_path / name), cluster=cluster)
        values = replace(context.settings, features=str(source), images=str(tmp_path / "images"))
        context = replace(context, settings=values)
        embedding = open_embedding(values, images=values.images, most_bytes=1 << 28)
        assert embedding is not None
        listing = list_images(str(tmp_path / "images"), tmp_path / name)
        embedding.listed(listing)
        spec = replace(SPEC, view=embedding.view, color=embedding.view is not None)
        options: dict[str, Any] = {"block_shape": (BLOCK_ROWS, 10), "in_flight": 2, "embedding": embedding}
        done[name] = facts(ingest(context, listing, spec, **options))
        embedding.release()
        assert content(tmp_path / name) == content(tmp_path / "one")
    assert done["many"] == done["one"]
