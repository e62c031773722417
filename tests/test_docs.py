"""Documents are tested: docstrings, --help, the README's table and commands, the changelog."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from conftest import CHECKOUT, PATIENCE_SECONDS, environment

import bigcluster
from bigcluster.cli.commands import app
from bigcluster.config import KEYS, shipped_configs

README = CHECKOUT / "README.md"


def commands() -> dict[str, Any]:
    group = typer.main.get_command(app)
    found: dict[str, Any] = dict(getattr(group, "commands", {}))
    return found


COMMANDS = commands()


# -- the public API


def public() -> Iterator[tuple[str, Any]]:
    for name in bigcluster.__all__:
        thing = getattr(bigcluster, name)
        if not isinstance(thing, str):
            yield name, thing
        if inspect.isclass(thing):
            for member, value in inspect.getmembers(thing):
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


PUBLIC = dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_api_has_docstrings(name: str) -> None:
    doc = inspect.getdoc(PUBLIC[name])
    assert doc, f"bigcluster.{name} has no docstring"
    assert doc.split()[-1].endswith((".", ":", ")")) or "\n" in doc


def test_every_public_name_is_there_and_others_are_not() -> None:
    assert set(bigcluster.__all__) <= set(dir(bigcluster)) | set(bigcluster._LAZY)
    with pytest.raises(AttributeError, match="nothing"):
        _ = bigcluster.nothing


def test_every_module_says_what_it_is_for() -> None:
    for module in pkgutil.walk_packages(bigcluster.__path__, "bigcluster."):
        path = Path(importlib.util.find_spec(module.name).origin or "")  # type: ignore[union-attr]
        source = path.read_text(encoding="utf-8").lstrip()
        if source and path.name != "__main__.py":
            assert source.startswith('"""'), f"{module.name} has no docstring"


# -- the command line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_explained(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.help.strip()
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"bigcluster {name}: {parameter.name} has no help"


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_shows_every_option(name: str) -> None:
    args = [name] if name else []
    done = subprocess.run(
        [sys.executable, "-m", "bigcluster", *args, "--help"],
        env=environment({"COLUMNS": "200"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    wanted = (
        [option for p in COMMANDS[name].params for option in p.opts if option.startswith("-")] if name else COMMANDS
    )
    for word in wanted:
        assert word in done.stdout
    assert isinstance(click.Context, type)


def test_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bigcluster", "--version"], env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == f"bigcluster {bigcluster.__version__}\n"


def test_the_option_for_configs_names_those_shipped() -> None:
    shown = next(p.help for p in COMMANDS["run"].params if p.name == "config")
    assert all(name in shown for name in shipped_configs())


# -- README and CHANGELOG

needs_readme = pytest.mark.skipif(not README.is_file(), reason="README.md is not written yet")
needs_changelog = pytest.mark.skipif(
    not (CHECKOUT / "CHANGELOG.md").is_file(), reason="CHANGELOG.md is not written yet"
)


def readme() -> str:
    return README.read_text(encoding="utf-8")


@needs_readme
@pytest.mark.parametrize("name", KEYS)
def test_every_setting_stands_in_the_readme(name: str) -> None:
    rows = [line for line in readme().splitlines() if line.startswith("|")]
    cells = [row.split("|")[1] for row in rows]
    assert any(re.search(rf"`{re.escape(name)}`", cell) for cell in cells), (
        f"no row of the README's tables is for {name}"
    )


@needs_readme
def test_the_readme_names_every_command_and_no_other() -> None:
    used = set(re.findall(r"^\$ bigcluster ([a-z]+)", readme(), re.MULTILINE))
    assert used <= set(COMMANDS)
    for name in COMMANDS:
        assert f"bigcluster {name}" in readme(), f"the README does not mention {name}"


@needs_readme
def test_links_inside_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme()):
        assert (CHECKOUT / target).exists(), f"README.md links to {target}"


def console_lines() -> list[str]:
    """The `$ ...` lines of all console blocks, continued lines joined."""
    if not README.is_file():
        return []
    blocks = re.findall(r"```console\n(.*?)```", readme(), re.DOTALL)
    joined = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line[2:].strip() for line in joined if line.startswith("$ ")]


NOT_RUN = ("make", "git", "pip", "python -m pip", "cd")
"""They install, or are the project's own tests."""


@needs_readme
def test_every_console_line_is_run_or_known() -> None:
    assert console_lines(), "the README shows no commands"
    for line in console_lines():
        assert line.startswith(("bigcluster ", *NOT_RUN)), f"a console line that no test knows: {line}"


@needs_readme
@pytest.mark.slow
def test_the_readmes_commands_run_in_order(tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "bigcluster"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bigcluster "$@"\n')
    shim.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    env = environment({"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"})

    def run(line: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", line], cwd=work, env=env, capture_output=True, text=True,
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 3), f"$ {line}\n{done.stdout}{done.stderr}"

    run("bigcluster demo photos --images 60 --quiet")
    for line in console_lines():
        if line.startswith("bigcluster "):
            run(line)


@needs_readme
def test_python_examples_of_the_readme_are_python() -> None:
    for block in re.findall(r"```python\n(.*?)```", readme(), re.DOTALL):
        compile(block, "README.md", "exec")
        for module in re.findall(r'^job = importlib.import_module\("(.+)"\)', block, re.MULTILINE):
            job = importlib.import_module(module)
            assert all(callable(getattr(job, used)) for used in re.findall(r"\bjob\.(\w+)", block))


@needs_changelog
def test_the_changelog_has_this_version() -> None:
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?({re.escape(bigcluster.__version__)}|Unreleased)\b", text, re.MULTILINE)


def test_console_lines_are_split_as_a_shell_would() -> None:
    for line in console_lines():
        assert shlex.split(line)
