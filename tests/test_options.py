"""Every option of every command, given something that it cannot be: one line of our own words and exit code 2."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import Background, Cli, write_pictures

from bigcluster.cli.commands import app
from bigcluster.errors import ProfiledRunError, UsageError

FREE_TEXT = {"out", "exclude", "log", "to", "scheduler"}
"""Names of files and the like, which may be anything; `--log abc` would write."""
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def options() -> Iterator[tuple[str, str, str]]:
    """(command, option, parameter) of all that take a value."""
    for name, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                yield name, parameter.opts[0], parameter.name


def line_of(command: str, images: Path, out: Path, tmp_path: Path) -> list[object]:
    """A call that is right but for what is added."""
    return {
        "run": [images, "--out", tmp_path / "new", "-k", 2],
        "profile": [images, "--out", tmp_path / "new", "-k", 2],
        "plan": [images, "--out", tmp_path / "new", "-k", 2],
        "sweep": [out, "-k", "2:3"],
        "predict": [out, images, "--to", tmp_path / "to.csv"],
        "verify": [out],
        "report": [out],
        "demo": [tmp_path / "demo"],
    }[command]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options") / "images"
    write_pictures(folder, 6)
    return folder


@pytest.fixture(scope="module")
def out(images: Path, cli: Cli) -> Path:
    folder = images.parent / "o"
    ran = cli("run", images, "--out", folder, "-k", 2, "--size", 8, "--set", "report.write=false", "--memory", "1GiB")
    assert ran.code == 0, ran.err
    return folder


@pytest.mark.parametrize("value", ["abc", "", "-1", "1e400"])
@pytest.mark.parametrize(
    ("command", "option", "name"), [found for found in options() if found[2] not in FREE_TEXT], ids=str
)
def test_a_value_that_an_option_cannot_take_is_one_line(
    command: str, option: str, name: str, value: str, images: Path, out: Path, tmp_path: Path
) -> None:
    line = line_of(command, images, out, tmp_path)
    if (command, option) == ("plan", "--images"):
        line = line[1:]
    # The job of a profile looks for the network that `features` names: its error is that of the profiled run.
    in_the_job = (command, name) == ("profile", "features") and value
    expected = ProfiledRunError if in_the_job else UsageError
    with pytest.raises(expected, match=r"\A[^\n]+\Z") as refused:
        app([command, *map(str, line), option, value], standalone_mode=False)
    assert refused.value.exit_code == 2
    known = {"sets": "--set", "config": "config", "count": "number of images"}.get(name, name)
    assert known in str(refused.value)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", ["verify", "report", "predict", "sweep", "profile"])
@pytest.mark.parametrize("kind", ["nothing", "a folder of others", "a file"])
def test_a_folder_without_a_run_is_a_wrong_call(
    command: str, kind: str, images: Path, out: Path, tmp_path: Path, cli: Cli
) -> None:
    there = tmp_path / "there"
    if kind == "a file":
        there.write_text("x")
    elif kind == "a folder of others":
        write_pictures(there, 1)
    line = line_of(command, there if command == "profile" else images, out, tmp_path)
    if command == "profile":
        line[line.index("--out") + 1] = there
    ran = cli(command, *[there if part == out else part for part in line])
    assert ran.code == 2, ran.err
    assert "Traceback" not in ran.err


def test_a_demo_that_is_killed_leaves_cuts_alone(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    for number in (signal.SIGKILL, signal.SIGTERM):
        running = Background("demo", folder, "--images", 4000)
        running.wait_until(lambda: any(folder.rglob("*.jpg")))  # noqa: B023
        running.process.send_signal(number)
        running.end()
        names = {path.name for path in folder.iterdir()}
        assert all(name.startswith("hall-") for name in names), names
        folder = tmp_path / "another"
