"""Any sequence of changed settings and reruns on one OUT ends as a fresh run with the last settings does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.stress.work import BUDGET, Job
from bigcluster.pipeline import run as pipeline
from bigcluster.runtime.events import silent

CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "k": st.sampled_from([2, 3, "2:4"]),
        "seed": st.integers(0, 1),
        "size": st.sampled_from(["8x8", "9x7"]),
        "reduce": st.sampled_from(["pca", "none"]),
        "components": st.sampled_from([2, 4]),
        "features": st.sampled_from(["gray", "color"]),
        "link": st.sampled_from(["hardlink", "symlink", "none"]),
        "pca.solver": st.sampled_from(["gram", "covariance", "subspace"]),
        "kmeans.max_iter": st.sampled_from([1, 300]),
    },
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sequences") / "images"
    write_pictures(folder, 12)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


def run(images: Path, out: Path, values: dict[str, Any]) -> None:
    pipeline.run(Job(images, values).settings(out), BUDGET, replace=True, listener=silent)


def left(out: Path) -> dict[str, bytes]:
    """What a run promises to be the same: labels, and which links there are."""
    found = {"labels.csv": (out / "labels.csv").read_bytes(), "images.csv": (out / "images.csv").read_bytes()}
    names = (path.relative_to(out).as_posix() for path in (out / "clusters").rglob("*") if not path.is_dir())
    return found | dict.fromkeys(names, b"")


@pytest.mark.slow
@settings(max_examples=8)
@given(st.lists(CHANGES, min_size=2, max_size=4))
def test_any_sequence_of_settings_ends_as_a_fresh_run(
    images: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.mktemp("sequence")
    values: dict[str, Any] = {"k": 2, "size": "8x8", "components": 3}
    for change in changes:
        values |= change
        run(images, folder / "out", values)
    run(images, folder / "fresh", values)
    assert left(folder / "out") == left(folder / "fresh")
    found = Job(images, values).verify(folder / "out")
    assert (found["ok"], found["damaged"], found["notes"]) == (True, [], [])
