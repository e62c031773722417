"""The format of the store: plain zarr for everybody, and no other format is touched."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zarr
from conftest import CHECKOUT, Cli, encoded, environment, picture
from zarr.codecs import BytesCodec, Crc32cCodec

import bigcluster as bc
from bigcluster.errors import OutError
from bigcluster.store.shapes import array_text, group_text

FORMAT_2 = CHECKOUT / "tests" / "data" / "format-2.tar.gz"
"""OUT of a run of six pictures by the last version that wrote format 2, without entries and report."""
FAST = ("--size", "8", "--components", "2", "--quiet", "--set", "report.write=false")

PLAIN = """
import sys
import dask.array
import numpy
import zarr
path = sys.argv[1]
group = zarr.open_group(path, mode="r")
print(group.tree())
for name, array in sorted(group.members()):
    theirs = dask.array.from_zarr(path, component=name)
    numpy.testing.assert_array_equal(theirs.compute(), array[...])
    print(name, array.shape)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("format") / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encoded(picture(number, 9, 9)))
    return folder


def test_store_zarr_is_plain_zarr(images: Path, tmp_path: Path, cli: Cli) -> None:
    """zarr and dask open it in a process where every warning is an error, and see arrays alone."""
    out = tmp_path / "out"
    assert cli("run", images, "--out", out, "-k", "2:3", *FAST).code == 0
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN, out / "store.zarr"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "pixels (6, 64)" in ran.stdout
    there = {path.name for path in (out / "store.zarr").iterdir()}
    assert there == {"zarr.json", *(line.split()[0] for line in ran.stdout.splitlines() if line.endswith(")"))}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "uint32", "int64", "uint64", "float32", "float64"])
def test_the_metadata_are_those_that_zarr_writes(tmp_path: Path, dtype: str) -> None:
    zarr.create_group(tmp_path / "g", zarr_format=3, attributes={"bigcluster_format": 3})
    assert (tmp_path / "g" / "zarr.json").read_text(encoding="utf-8") == group_text()
    for shape, chunks in (((7,), (3,)), ((4, 5), (2, 5)), ((2, 3, 7), (2, 3, 7))):
        zarr.create(
            store=tmp_path / "a",
            shape=shape,
            dtype=dtype,
            chunks=chunks,
            fill_value=0,
            zarr_format=3,
            codecs=[BytesCodec(), Crc32cCodec()],
            overwrite=True,
        )
        assert (tmp_path / "a" / "zarr.json").read_text(encoding="utf-8") == array_text(shape, dtype, chunks)


def contents(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Of every file and folder: its time, and what it holds."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


@pytest.mark.parametrize("damage", ["", "zarr.json"])
def test_an_out_of_format_2_is_refused_and_nothing_in_it_is_changed(
    images: Path, tmp_path: Path, cli: Cli, damage: str
) -> None:
    out = tmp_path / "out"
    with tarfile.open(FORMAT_2) as tar:
        tar.extractall(tmp_path, filter="data")
    if damage:  # then nothing says whose it is
        (out / "store.zarr" / damage).unlink()
    before = contents(tmp_path)
    to = tmp_path / "p.csv"
    for line in (
        ("run", images, "--out", out, "-k", 2),
        ("run", "--out", out, "--fresh", "--replace", images, "-k", 2),
        ("sweep", out, "-k", "2:3"),
        ("report", out),
        ("verify", out),
        ("predict", out, images, "--to", to),
        ("profile", images, "--out", out, "-k", 2),
    ):
        ran = cli(*line)
        assert (ran.code, len(ran.error_lines)) == (2, 1), ran
        if not damage:
            assert "has the format 2" in ran.err, ran
            assert "give another OUT" in ran.err, ran
            assert "left as it is" in ran.err, ran
    if not damage:
        with pytest.raises(OutError, match="has the format 2"):
            _ = bc.open(out).scores
    assert contents(tmp_path) == before


def test_a_copy_of_an_out_is_as_good(images: Path, tmp_path: Path, cli: Cli) -> None:
    """`cp -r`: all that belongs to the store is in two folders of OUT."""
    out, copied = tmp_path / "out", tmp_path / "copied"
    assert cli("run", images, "--out", out, "-k", 2, *FAST).code == 0
    subprocess.run(["cp", "-r", out, copied], check=True)
    shutil.rmtree(out)
    ran = cli("run", images, "--out", copied, "-k", 2, "--json", *FAST)
    assert ran.code == 0, ran
    stages = json.loads(ran.out)["stages"]
    assert all(stages[name]["reused"] for name in ("ingest", "reduce", "cluster"))
    assert bc.open(copied).verify()["ok"]
