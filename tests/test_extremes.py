"""Inputs of absurd size or depth: one line, and no more memory than their text takes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, encoded, picture, write_pictures

from bigcluster import api
from bigcluster.catalog import list_images
from bigcluster.config import parse_ks, parse_sets, read_toml, resolve
from bigcluster.config.ks import MOST_KS
from bigcluster.errors import ConfigError
from bigcluster.units import parse_bytes, parse_count

LONG = "9" * 5000
DEEP = "[" * 5000 + "]" * 5000


@pytest.mark.parametrize(
    "call",
    [
        lambda: parse_ks("k", LONG),
        lambda: parse_ks("k", f"1:{LONG}"),
        lambda: parse_ks("k", f"5,{LONG}"),
        lambda: parse_ks("k", int("9" * 4000) ** 2),
        lambda: parse_ks("k", 2**31),
        lambda: parse_ks("k", "1:500000000"),
        lambda: parse_bytes(f"{LONG}GiB"),
        lambda: parse_bytes(LONG),
        lambda: parse_count(LONG),
        lambda: parse_count("1e99"),
        *(
            lambda name=name, value=value: resolve(flags={}, sets=[f"{name}={value}"], config=None, kept=None)
            for name in ("k", "seed", "size", "components", "variance", "kmeans.tol", "image.timeout", "link")
            for value in (LONG, f"0x{LONG}", DEEP, f"-{LONG}", "9" * 400, "1\nk = 3")
        ),
        lambda: resolve(flags={"size": int("9" * 4000) ** 2}, sets=(), config=None, kept=None),
        lambda: resolve(flags={"seed": int("9" * 4000) ** 2}, sets=(), config=None, kept=None),
    ],
)  # fmt: skip
def test_a_value_out_of_all_bounds_is_one_short_line(call: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        call()
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        f"seed = {LONG}",
        f"seed = 0x{LONG}",
        f"k = {DEEP}",
        f"k = {'{a=' * 3000}1{'}' * 3000}",
        f"[{'.'.join('a' * 3000)}]\nb = 1",
        'k = "1:500000000"',
    ],
)
def test_a_config_of_absurd_size_or_depth_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read_toml(file)


def test_the_longest_sweep_is_read_and_one_more_is_not() -> None:
    assert len(parse_ks("k", f"1:{MOST_KS}")) == MOST_KS
    with pytest.raises(ConfigError, match="use a larger step"):
        parse_ks("k", f"1:{MOST_KS + 1}")


def test_a_value_that_says_more_than_itself_stays_a_text() -> None:
    assert parse_sets(["seed=1\nk = 3"]) == {"seed": "1\nk = 3"}


@pytest.fixture
def deep(tmp_path: Path) -> Path:
    """1,200 nested folders, a picture in the innermost and one in the outermost."""
    folder = tmp_path / "images"
    write_pictures(folder, 1)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    file = os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(file, encoded(picture(7)))
    os.close(file)
    os.close(here)
    return folder


def test_nested_folders_are_walked_at_any_depth(deep: Path) -> None:
    try:
        assert list(list_images(str(deep), None).names) == ["d/" * 1200 + "deep.png", "p000.png"]
    finally:
        _remove(deep)


def _remove(folder: Path) -> None:
    """Python's own removal of a tree goes too deep here, as pytest finds out later."""
    while (folder / "d").is_dir():
        lifted = folder / "lifted"
        (folder / "d").rename(lifted)
        for inner in list(lifted.iterdir()):
            inner.rename(folder / inner.name)
        lifted.rmdir()
    shutil.rmtree(folder)


@pytest.mark.parametrize("line", [("-k", "1:500000000"), ("-k", LONG), ("-k", 2, "--memory", f"{LONG}GiB")])
def test_the_command_line_refuses_them_in_one_line(line: tuple[object, ...], tmp_path: Path, cli: Cli) -> None:
    ran = cli("plan", "--images", 100, "--out", tmp_path / "o", *line)
    assert (ran.code, len(ran.error_lines)) == (2, 1), ran.err


def test_a_sweep_may_have_a_seed_of_its_own(tmp_path: Path, cli: Cli) -> None:
    write_pictures(tmp_path / "in", 30)
    run = ("--size", 8, "--components", 3, "--set", "pca.solver=subspace", "--memory", "1GiB")
    assert cli("run", tmp_path / "in", "--out", tmp_path / "o", "-k", 3, *run).code == 0
    sweep = ("sweep", tmp_path / "o", "-k", "2:6", "--memory", "1GiB", "--json")
    ran = [cli(*sweep, *more) for more in ((), ("--set", "seed=1"), ("--set", "seed=2"), ("--set", "seed=0"))]
    assert [one.code for one in ran] == [0] * 4, [one.err for one in ran]
    assert ran[0].out.partition('"stages"')[0] == ran[3].out.partition('"stages"')[0]
    assert len({one.out.partition('"stages"')[0] for one in ran}) > 1, "another seed finds another clustering"
    assert api.stored_settings(tmp_path / "o").seed == 0
