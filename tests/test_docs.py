"""Documents are tested: docstrings, --help, ARCHITECTURE.md, the README's table and commands, the changelog."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from conftest import CHECKOUT, PATIENCE_SECONDS, environment
from test_layers import LAYERS, MODULES, PACKAGE, imports, name_of, room_of

import bigcluster
from benchmarks.slurm import story
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


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert doc, f"{path.relative_to(CHECKOUT)} has no docstring"


def is_there(name: str) -> bool:
    """Whether `store.row_source` is a package or a module of ours."""
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=name_of)
def test_a_package_says_what_it_imports_and_where_to_begin(path: Path) -> None:
    doc = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    what, imported, begin = re.fullmatch(r"(.*?)(It imports .*?)(Begin with .*)", doc).groups()  # type: ignore[union-attr]
    assert what.strip().endswith(".")
    for name in re.findall(r"`([\w.]+)`", imported):
        assert is_there(name), f"{path.parent.name} says that it imports {name}, which is not there"
    files = re.findall(r"(?<![\w.])([\w/]+(?:\.py|\.md|/))(?!\w)", doc[len(what) + len(imported) :])
    assert files, f"{begin} names no file"
    for file in files:
        assert (path.parent / file).exists() or (PACKAGE / file).exists(), (
            f"{path.parent.name} says {begin}, and there is no {file}"
        )


# -- ARCHITECTURE.md

ARCHITECTURE = PACKAGE / "ARCHITECTURE.md"
MOST_LINES = 250
"""Somebody reads it whole."""
ANYBODY = {"errors", "units", "_version"}
"""Modules that the column of imports leaves out."""


def architecture() -> str:
    return ARCHITECTURE.read_text(encoding="utf-8")


def room_in_words(path: Path) -> str:
    """The package or module as the page calls it: `__init__` is what LAYERS calls the empty name."""
    return room_of(name_of(path)) or "__init__"


def test_the_architecture_page_can_be_read_whole() -> None:
    assert len(architecture().splitlines()) <= MOST_LINES


def test_the_floors_are_those_of_the_layer_test() -> None:
    drawn = {
        int(level): re.split(r"\s{4,}|$", rooms)[0].split()
        for level, rooms in re.findall(r"^floor (\d+)   (.*)$", architecture(), re.MULTILINE)
    }
    layers = {level: [name or "__init__" for name in names] for level, names in enumerate(LAYERS)}
    assert {level: sorted(names) for level, names in drawn.items()} == {
        level: sorted(names) for level, names in layers.items()
    }
    assert list(drawn) == sorted(drawn, reverse=True), "the highest floor stands on top"


def test_every_package_is_on_the_page_with_what_it_imports() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| .+? \| (.*?)\|$", architecture(), re.MULTILINE)
    told = {name: set(re.findall(r"`([\w.]+)`", cell)) for name, cell in rows}
    actual: dict[str, set[str]] = {room_in_words(path): set() for path in MODULES}
    for path in MODULES:
        for _, module in imports(path):
            if module.startswith("bigcluster."):
                actual[room_in_words(path)].add(room_of(module.removeprefix("bigcluster.")))
    actual["__init__"] |= {room_of(module.removeprefix("bigcluster.")) for module in bigcluster._LAZY.values()}
    for name, imported in actual.items():
        assert name in told, f"ARCHITECTURE.md has no row for {name}"
        assert told[name] == imported - ANYBODY - {name}, f"the row of {name} in ARCHITECTURE.md"
    assert told.keys() == actual.keys()


def names_in(path: Path) -> set[str]:
    """Functions, classes with their methods, and constants that stand at the top of a module."""
    named: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            named.add(node.name)
        if isinstance(node, ast.ClassDef):
            named |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):
            named |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return named


def test_what_the_architecture_page_names_is_there() -> None:
    found = re.findall(r"`((?:[\w-]+/)*\w+\.(?:py|md))(?::([\w.]+))?`", architecture())
    assert len(found) > 50, "the page shows where things are"
    for file, name in found:
        path = next((root / file for root in (PACKAGE, CHECKOUT) if (root / file).is_file()), None)
        assert path is not None, f"ARCHITECTURE.md names {file}, which is not there"
        assert not name or name in names_in(path), f"ARCHITECTURE.md names {name} in {file}, which is not there"


def test_the_make_targets_of_the_architecture_page_are_there() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^    make (\w+)", architecture(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


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


def readme() -> str:
    return README.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", KEYS)
def test_every_setting_stands_in_the_readme(name: str) -> None:
    rows = [line for line in readme().splitlines() if line.startswith("|")]
    cells = [row.split("|")[1] for row in rows]
    assert any(re.search(rf"`{re.escape(name)}`", cell) for cell in cells), (
        f"no row of the README's tables is for {name}"
    )


def test_the_readme_says_of_every_setting_what_the_schema_says() -> None:
    table = readme().partition("<!-- settings: begin -->")[2].partition("<!-- settings: end -->")[0]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| [^|]+ \| (.*) \|$", table, re.MULTILINE))
    assert rows == {name: key.doc for name, key in KEYS.items()}


def test_the_readme_names_every_command_and_no_other() -> None:
    used = set(re.findall(r"^\$ bigcluster ([a-z]+)", readme(), re.MULTILINE))
    assert used <= set(COMMANDS)
    for name in COMMANDS:
        assert f"bigcluster {name}" in readme(), f"the README does not mention {name}"


def test_links_inside_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", readme()):
        assert (CHECKOUT / target).exists(), f"README.md links to {target}"
    headings = re.findall(r"^#+ (.+)$", readme(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    for anchor in re.findall(r"\]\(#([^)]+)\)", readme()):
        assert anchor in anchors, f"README.md links to #{anchor}"


MOST_WORDS = 1500
"""What a newcomer reads in ten minutes; everything else stands in the reference."""
GOALS = (
    "What it is for, and what it is not for",
    "Install",
    "Five recipes",
    "The OUT folder",
    "Python",
    "A cluster of machines",
)
MOST_PICTURE_BYTES = 300_000


def test_the_readme_begins_with_what_a_newcomer_wants() -> None:
    beginning, reference = re.split(r"^# Reference$", readme(), flags=re.MULTILINE)
    assert len(beginning.split()) <= MOST_WORDS
    assert tuple(re.findall(r"^## (.+)$", beginning, re.MULTILINE)) == GOALS
    first = beginning.index("![")
    assert len(beginning[:first].split()) < 150, "a picture stands near the top"
    assert "## Settings" in reference


def test_the_picture_of_the_readme_is_small_and_drawn_by_a_command() -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme())
    assert (CHECKOUT / picture).stat().st_size <= MOST_PICTURE_BYTES
    (module,) = re.findall(r"`python -m (benchmarks\.\w+)` drew", readme())
    assert CHECKOUT / picture == importlib.import_module(module).PICTURE


def test_the_readme_says_what_every_dependency_is_for() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    ours = [text for name in extras if name not in ("test", "bench", "lint") for text in extras[name]]
    reasons = readme()[readme().index("## What it is built on") :].lower()
    for requirement in [*project["dependencies"], *ours]:
        library = re.match(r"[\w-]+", requirement)[0]  # type: ignore[index]
        assert re.search(rf"\b{library.lower()}\b", reasons), f"README.md does not say what {library} is for"


def console_lines() -> list[str]:
    """The `$ ...` lines of all console blocks, continued lines joined."""
    blocks = re.findall(r"^```console\n(.*?)^```", readme(), re.DOTALL | re.MULTILINE)
    assert len(blocks) == readme().count("```console"), "a block that is indented would not be run"
    joined = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line[2:].strip() for line in joined if line.startswith("$ ")]


NOT_RUN = ("make", "git", "pip", "python -m pip", "cd")
"""They install, or are the project's own tests."""


def test_every_console_line_is_run_or_known() -> None:
    assert console_lines(), "the README shows no commands"
    for line in console_lines():
        assert line.startswith(("bigcluster ", *NOT_RUN)), f"a console line that no test knows: {line}"


@pytest.mark.slow
def test_the_readmes_commands_run_in_order(tmp_path: Path) -> None:
    shim = tmp_path / "bin" / "bigcluster"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bigcluster "$@"\n')
    shim.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    models = Path(os.environ.get("BIGCLUSTER_SHARED", CHECKOUT.parent / "shared")) / "models"
    found = {"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}", "BIGCLUSTER_MODELS": str(models)}
    env = environment(found)

    def run(line: str) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", line], cwd=work, env=env, capture_output=True, text=True,
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 3), f"$ {line}\n{done.stdout}{done.stderr}"

    run("bigcluster demo photos --images 60 --quiet")
    for line in console_lines():
        needs_network = "--features mobilenetv2" in line
        if line.startswith("bigcluster ") and (models.is_dir() or not needs_network):
            run(line)


def test_python_examples_of_the_readme_are_python() -> None:
    for block in re.findall(r"```python\n(.*?)```", readme(), re.DOTALL):
        compile(block, "README.md", "exec")
        for module in re.findall(r'^job = importlib.import_module\("(.+)"\)', block, re.MULTILINE):
            job = importlib.import_module(module)
            assert all(callable(getattr(job, used)) for used in re.findall(r"\bjob\.(\w+)", block))


def test_the_batch_job_of_the_readme_is_a_script() -> None:
    """`python -m benchmarks.slurm` runs it where SLURM is installed."""
    subprocess.run(["bash", "-n"], input=story(), text=True, check=True)


def test_the_changelog_has_this_version() -> None:
    text = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[?({re.escape(bigcluster.__version__)}|Unreleased)\b", text, re.MULTILINE)


def test_console_lines_are_split_as_a_shell_would() -> None:
    for line in console_lines():
        assert shlex.split(line)
