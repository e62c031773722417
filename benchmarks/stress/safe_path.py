"""Every command and call, started in a folder of pictures that holds a module of every name that Python or one of our
libraries may import, and settings of such libraries: nothing of it is run.

Only what Python itself imports before it comes to us is not protected; the console script puts no folder on the path.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.stress.harness import PATIENCE_SECONDS, ROOT
from benchmarks.stress.work import catalog, scratch

SCRIPT = "import sys\nfrom bigcluster.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
"""The console script, as installers write it."""
CALLS = """
import sys
import bigcluster as bc
run = bc.run(".", sys.argv[1], n_clusters="2:3", size=16, components=3, memory="1GiB")
run = bc.open(sys.argv[1])
assert run.verify()["ok"]
assert len(run.predict(".", sys.argv[2], memory="1GiB")) > 0
run.summary
"""
FAST = ("--size", "16", "--components", "3", "--memory", "1GiB", "--quiet")
N_IMAGES = 12


def main(full: bool) -> dict[str, Any]:
    """All commands and the calls from Python (three commands where not full), in two environments."""
    with scratch() as folder:
        pictures = catalog(folder / "pictures", N_IMAGES)
        n_modules = make_hostile(pictures, folder / "marker")
        (folder / "bin").mkdir()
        (folder / "bin" / "bigcluster").write_text(SCRIPT)
        (folder / "bin" / "calls.py").write_text(CALLS)
        n_started = 0
        for number, path in enumerate(("", f"..{os.pathsep}") if full else ("",)):
            n_started += _all_commands(folder, pictures, path, folder / f"out{number}", full)
    return {
        "modules": n_modules,
        "started": n_started,
        "says": f"{n_started} commands and calls in a folder with {n_modules} hostile modules and settings: none of "
        "them was run, and all commands did their work",
    }


def make_hostile(folder: Path, marker: Path) -> int:
    """A module of every name, half of them packages; each leaves a line in `marker`."""
    code = f"open({str(marker)!r}, 'a').write(__name__ + chr(10))\n"
    names = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions(), "sitecustomize", "usercustomize"}
    names = {name for name in names if name.isidentifier()}
    for number, name in enumerate(sorted(names)):
        if number % 2:
            (folder / f"{name}.py").write_text(code)
        else:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "__init__.py").write_text(code)
    (folder / "evil.pth").write_text(f"import os; {code}")
    (folder / "pyvenv.cfg").write_text("home = .\n")
    (folder / "matplotlibrc").write_bytes(b"\xff\xfe not a setting")
    (folder / ".numba_config.yaml").write_text("cache_dir: .")
    (folder / "joblib.so").write_bytes(b"\x7fELF")
    return len(names) + 5


def _all_commands(folder: Path, pictures: Path, path: str, out: Path, full: bool) -> int:
    """path : in front of PYTHONPATH, a relative folder."""
    script, table = folder / "bin" / "bigcluster", folder / "p.csv"
    lines: list[list[object]] = [
        ["run", ".", "--out", out, "-k", "2:3", *FAST],
        ["verify", out],
        ["predict", out, ".", "--to", table, "--memory", "1GiB"],
    ]
    if full:
        lines += [
            ["--version"],
            ["plan", ".", "-k", 2, *FAST[:-1]],
            ["run", "--out", out, "-k", 3, "--memory", "1GiB", "--quiet"],
            ["sweep", out, "-k", "2:5", "--memory", "1GiB"],
            ["report", out, "--memory", "1GiB"],
            ["profile", ".", "--out", out, "-k", 3, *FAST, "--compare", "numpy"],
            ["demo", folder / "drawn", "--images", 3],
        ]
    for line in lines:
        _start([script, *line], pictures, path, folder)
        shutil.rmtree(folder / "drawn", ignore_errors=True)
    if full:
        _start([folder / "bin" / "calls.py", folder / f"{out.name}-calls", folder / "q.csv"], pictures, path, folder)
    # In OUT itself, which is a stranger's as well.
    shutil.copytree(pictures, out, dirs_exist_ok=True)
    _start([script, "verify", "."], out, path, folder)
    return len(lines) + 1 + full


def _start(line: list[Any], cwd: Path, path: str, folder: Path) -> None:
    known = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *map(str, line)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path + known},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    marker = folder / "marker"
    assert not marker.exists(), f"{line[1:3]} in {cwd.name} ran {marker.read_text().split()[:5]}"
    assert done.returncode == 0, f"{line} in {cwd.name}: exit code {done.returncode}\n{done.stderr[-2000:]}"
