"""Pictures that people made, in real processes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import Cli

pytestmark = pytest.mark.slow


def entries(out: Path) -> int:
    return sum(path.is_file() for path in (out / "clusters").rglob("*"))


def test_clothing(shared: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("run", shared / "images" / "clothing", "--out", tmp_path / "o", "-k", 10, "--components", 20, "--json")
    assert ran.code == 0, ran.err
    with (tmp_path / "o" / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2060 == entries(tmp_path / "o")
    assert {row["status"] for row in rows} == {"ok"}
    assert {int(row["label"]) for row in rows} == set(range(10))
    summary = json.loads(ran.out)
    assert summary["counts"]["ok"] == summary["counts"]["listed"] == 2060
    assert summary["memory"]["measured_peak_bytes"] <= summary["memory"]["budget_bytes"]


def test_omniglot(shared: Path, tmp_path: Path, cli: Cli) -> None:
    """One-bit PNG: black strokes on white, not the other way round, and not all one tone."""
    ran = cli(
        "run", shared / "images" / "omniglot", "--out", tmp_path / "o", "-k", 12,
        "--components", 20, "--size", 32, "--link", "symlink", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    counts = json.loads(ran.out)["counts"]
    assert counts["failed"] == 0
    assert counts["ok"] == counts["listed"] == entries(tmp_path / "o") > 1000
    from bigcluster.store import Store

    pixels = Store(tmp_path / "o").array("pixels")[:200]
    assert 200 < pixels.mean() < 255
    assert (pixels.min(axis=1) < 128).all()
