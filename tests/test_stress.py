"""The figures of `make stress` in small: every module of benchmarks/stress runs and keeps its promise."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT, environment

from benchmarks.stress.__main__ import figures


@pytest.mark.slow
@pytest.mark.parametrize("name", figures())
def test_a_figure_keeps_its_promise(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.stress", "--small", "--only", name, "--results", str(tmp_path)],
        cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{name}: ")
    assert json.loads((tmp_path / f"stress-{name}-small.json").read_text())["says"] in done.stdout
