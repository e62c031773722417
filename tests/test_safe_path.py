"""What lies in the current folder is never run: every command and every call, started in a hostile folder."""

from __future__ import annotations

import ast
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CHECKOUT, PATIENCE_SECONDS, Ran, encoded, environment, picture, write_pictures

SCRIPT = "import sys\nfrom bigcluster.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
"""The console script, as installers write it."""
MODULES = (
    *("cv2", "zarr", "numpy", "dask", "PIL", "matplotlib", "pandas", "psutil", "memory_profiler", "jinja2", "kneed"),
    *("queue", "types", "string", "token", "json", "enum", "typing", "socket", "secrets", "statistics", "bigcluster"),
    *("sitecustomize", "usercustomize"),
)
FAST = ("--size", "8", "--components", "2", "--memory", "1GiB")


def make_hostile(folder: Path, marker: Path) -> None:
    """Modules, a package, a .pth and settings of libraries, each of which leaves a line in `marker` or ends a run."""
    code = f"open({str(marker)!r}, 'a').write(__name__ + chr(10))\n"
    for name in MODULES:
        (folder / f"{name}.py").write_text(code)
    for package in ("skimage", "scipy", "sklearn"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(code)
    (folder / "evil.pth").write_text(f"import os; {code}")
    (folder / "matplotlibrc").write_bytes(b"\xff\xfe not a setting")
    (folder / ".numba_config.yaml").write_text("cache_dir: .")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of 14 pictures and of hostile files; two pictures have to be decoded in the child."""
    folder = tmp_path / "pictures"
    write_pictures(folder, 14)
    make_hostile(folder, tmp_path / "marker")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bigcluster").write_text(SCRIPT)
    return folder


def command_in(folder: Path, *arguments: object, path: str = "", check: bool = True) -> Ran:
    """The console script in that folder; `path` goes in front of PYTHONPATH."""
    start = [sys.executable, str(folder.parent / "bin" / "bigcluster"), *map(str, arguments)]
    return _run(start, folder, path, check)


def python_in(folder: Path, code: str, path: str = "") -> Ran:
    """A script from elsewhere, in that folder."""
    script = folder.parent / "bin" / "script.py"
    script.write_text(code)
    return _run([sys.executable, str(script)], folder, path, True)


def _run(start: list[str], folder: Path, path: str, check: bool) -> Ran:
    known = environment()
    done = subprocess.run(
        start,
        cwd=folder,
        env=known | {"PYTHONPATH": path + known["PYTHONPATH"]},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert not check or done.returncode == 0, f"{start}\n{done.stdout}{done.stderr}"
    marker = folder.parent / "marker"
    assert not marker.exists(), f"{start} ran {marker.read_text()}"
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.mark.slow
def test_no_command_runs_what_lies_in_the_current_folder(hostile: Path) -> None:
    command_in(hostile, "--version")
    command_in(hostile, "plan", ".", "-k", 2, *FAST)
    command_in(hostile, "run", ".", "--out", "../o", "-k", "2:4", *FAST)
    command_in(hostile, "sweep", "../o", "-k", "2:5", "--memory", "1GiB")
    command_in(hostile, "report", "../o", "--memory", "1GiB")
    command_in(hostile, "predict", "../o", "p*.png", "--to", "../labels.csv", "--memory", "1GiB")
    with (hostile.parent / "labels.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 14
    command_in(hostile, "demo", "../drawn", "--images", 3)
    shutil.copytree(hostile, hostile.parent / "o", dirs_exist_ok=True)
    command_in(hostile.parent / "o", "verify", ".", "--quick", check=False)


@pytest.mark.slow
def test_a_profile_runs_nothing_of_the_current_folder_in_any_of_its_processes(hostile: Path) -> None:
    command_in(hostile, "profile", ".", "--out", "../o", "-k", 2, *FAST, "--compare", "numpy")
    assert (hostile.parent / "o" / "profile" / "timeline.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", f".{os.pathsep}{os.pathsep}"])
def test_calls_from_python_are_as_safe_whatever_pythonpath_says_of_the_current_folder(hostile: Path, path: str) -> None:
    code = f"""
import os
import bigcluster as bc
os.environ["PYTHONPATH"] = {path!r} + os.environ["PYTHONPATH"]
found = bc.run(".", "../o", n_clusters="2:3", size=8, components=2, memory="1GiB")
assert bc.open("../o").verify()["ok"]
assert len(found.predict(".", "../labels.csv", memory="1GiB")) == 14
"""
    python_in(hostile, code)


def test_the_console_script_leaves_out_relative_entries_of_pythonpath(hostile: Path) -> None:
    """Those modules that Python itself imports before us are beyond our reach."""
    for name in ("types", "string", "token", "enum", "typing", "sitecustomize", "usercustomize", "bigcluster"):
        (hostile / f"{name}.py").unlink()
    command_in(hostile, "plan", ".", "-k", 2, *FAST, path=os.pathsep)


@pytest.mark.slow
def test_the_child_that_decodes_alone_is_as_safe(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture whose decode ends the worker: its files go to the child."""
    crash = """
import os, sys
if any(name.startswith("bigcluster.") for name in sys.orig_argv):
    import cv2
    sound = cv2.imdecode
    def imdecode(data, flags):
        if bytes(data[-4:]) == b"#die":
            os.abort()
        return sound(data, flags)
    cv2.imdecode = imdecode
"""
    front = hostile.parent / "front"
    front.mkdir()
    (front / "sitecustomize.py").write_text(crash)
    (hostile / "bad.png").write_bytes(encoded(picture(1)) + b"#die")
    path = f"{front}{os.pathsep}"
    ran = command_in(hostile, "run", ".", "--out", "../o", "-k", 2, *FAST, path=path, check=False)
    assert ran.code == 3, ran.err
    assert "crashed" in (hostile.parent / "o" / "images.csv").read_text()


def test_a_glob_below_a_folder_with_brackets_in_its_name(tmp_path: Path) -> None:
    """Relative patterns become absolute ones, and run.toml keeps them so."""
    folder = tmp_path / "[2020] p*"
    write_pictures(folder / "in", 6)
    for line in (("run", "in/*.png", "--out", "o", "-k", "2", *FAST), ("run", "--out", "o", "--memory", "1GiB")):
        start = [sys.executable, "-m", "bigcluster", *line]
        done = subprocess.run(start, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (folder / "o" / "labels.csv").read_text().count(".png") == 12  # path and file


def test_a_relative_path_in_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    line = f"cd {tmp_path}/gone && rmdir ../gone && exec {sys.executable} -m bigcluster verify o"
    done = subprocess.run(["sh", "-c", line], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "the current folder cannot be found" in done.stderr


@pytest.mark.parametrize("file", sorted((CHECKOUT / "bigcluster").rglob("*.py")), ids=lambda file: file.stem)
def test_processes_are_started_in_one_place(file: Path) -> None:
    if file.name in ("processes.py", "build.py"):
        return
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert not called.startswith(("subprocess.", "os.exec", "os.spawn", "os.posix_spawn", "os.fork")), (
                f"{file.name}:{node.lineno}: {called}; use bigcluster.runtime.processes.start_python"
            )
