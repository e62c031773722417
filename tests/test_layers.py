"""Who imports whom: a module imports its own layer or a lower one, and heavy or risky libraries stay in their place."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CHECKOUT, environment

PACKAGE = CHECKOUT / "bigcluster"

# The floors of ARCHITECTURE.md, lowest first: packages, and the modules beside them. Only planning.footprint, which is
# arithmetic alone, stands lower than its package.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "units", "_version", "files", "config", "runtime", "planning.footprint"),
    ("kernels", "catalog", "store"),
    ("solvers", "outdir", "models"),
    ("planning",),
    ("stages",),
    ("outputs", "report", "profiling"),
    ("pipeline", "estimators", "demo"),
    ("api", "cli", "__main__", ""),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = [*MODULES, *sorted((CHECKOUT / "benchmarks").rglob("*.py"))]

# Library -> the modules that may import it.
ALLOWED = {
    "cv2": ("kernels.decode", "demo", "planning.sample_picture", "report", "profiling.naive"),
    "pi_heif": ("kernels.decode",),
    "rawpy": ("kernels.decode",),
    "pylibjxl": ("kernels.decode",),
    "PIL": ("kernels.decode", "demo", "report"),
    "jinja2": ("report",),
    "zarr": ("store",),
    "google_crc32c": ("store",),
    "onnxruntime": ("runtime.onnx_runtime",),
    "onnx": (),
    "pooch": ("models.fetch",),
    "requests": ("models.fetch",),
    "dask_ml": ("solvers", "profiling.naive"),
    "pyarrow": ("catalog",),
    "pandas": ("api", "estimators", "outputs"),
    "psutil": ("runtime", "profiling"),
    "memory_profiler": ("profiling",),
    "rich": ("cli",),
    "typer": ("cli",),
    "sklearn": ("estimators", "solvers", "profiling.naive"),
    "distributed": ("runtime.dask_cluster",),
    "openTSNE": ("solvers.manifold",),
    "umap": ("solvers.manifold",),
    "graspologic_native": ("solvers.communities",),
}
NOWHERE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NOT_IN_KERNELS = {"dask", "pathlib", "os", "zarr", "shutil", "tempfile", "glob"}
# They know one path: that of the library beside them.
COMPILED = ("kernels.linalg.compiled", "kernels.linalg.native.build")


def name_of(path: Path) -> str:
    """`bigcluster/store/marks.py` -> 'store.marks'; the package itself is ''."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_within(name: str, entry: str) -> bool:
    return name == entry or (entry != "" and name.startswith(entry + "."))


def level_of(name: str) -> int:
    entries = [entry for entry in LEVEL if is_within(name, entry)]
    assert entries, f"bigcluster.{name} has no layer: give it one in LAYERS"
    return LEVEL[max(entries, key=len)]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, inside functions too; those for type checkers alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            # `from bigcluster import api` imports bigcluster.api.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                is_module = (CHECKOUT / inner.replace(".", "/")).with_suffix(".py").is_file()
                is_package = (CHECKOUT / inner.replace(".", "/") / "__init__.py").is_file()
                yield node.lineno, inner if is_module or is_package else str(node.module)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_its_own_layer_or_a_lower_one(path: Path) -> None:
    level = level_of(name_of(path))
    for line, module in imports(path):
        if module == "bigcluster" or not is_within(module, "bigcluster"):
            continue
        imported = module.removeprefix("bigcluster.")
        assert level_of(imported) <= level, f"{path.name}:{line} (layer {level}) imports {imported} from above"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_are_imported_in_their_place_only(path: Path) -> None:
    name = name_of(path)
    for line, module in imports(path):
        library = module.partition(".")[0]
        if library in ALLOWED:
            assert any(is_within(name, place) for place in ALLOWED[library]), f"{path.name}:{line} imports {library}"
        if is_within(name, "kernels") and name not in COMPILED:
            assert library not in NOT_IN_KERNELS, f"{path.name}:{line}: kernels know neither dask nor paths"


def test_only_the_command_line_imports_the_demo() -> None:
    for path in MODULES:
        for line, module in imports(path):
            if is_within(module, "bigcluster.demo"):
                assert name_of(path).partition(".")[0] in ("cli", "demo"), f"{path.name}:{line} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_is_pickled(path: Path) -> None:
    for line, module in imports(path):
        assert module.partition(".")[0] not in NOWHERE, f"{path}:{line} imports {module}"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), f"{path}:{node.value.lineno}"
            assert node.value.value is False, f"{path}:{node.value.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    if any(is_within(name_of(path), place) for place in ("cli", "estimators.verbose", "kernels.linalg.gemm")):
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "input", "eval", "exec"), f"{path.name}:{node.lineno}"


def room_of(name: str) -> str:
    """The package directly below bigcluster, or the module beside the packages."""
    return name if name == "planning.footprint" else name.partition(".")[0]


def test_no_two_packages_import_each_other() -> None:
    """Nor three in a circle: packages can be put in an order in which each imports earlier ones alone."""
    below: dict[str, set[str]] = {}
    for path in MODULES:
        room = room_of(name_of(path))
        for _, module in imports(path):
            if module.startswith("bigcluster."):
                below.setdefault(room, set()).add(room_of(module.removeprefix("bigcluster.")))
    for room, others in below.items():
        others.discard(room)
    while free := [room for room, others in below.items() if not others & below.keys()]:
        for room in free:
            del below[room]
    assert not below, f"in a circle: {below}"


def test_every_layer_entry_exists() -> None:
    names = {name_of(path) for path in MODULES}
    missing = [entry for entry in LEVEL if not any(is_within(name, entry) for name in names)]
    assert not missing


HEAVY = ("numpy", "dask", "cv2", "zarr", "pandas", "sklearn", "onnxruntime", "dask_ml", "PIL", "scipy", "distributed")


@pytest.mark.parametrize(
    "what",
    [
        "import bigcluster",
        "from bigcluster import cli",
        "import bigcluster.api, bigcluster.cli.display, bigcluster.outdir, bigcluster.runtime.supervisor",
        "import sys; sys.argv = ['bigcluster', '--help']; from bigcluster.cli import main; main()",
        "import sys; sys.argv = ['bigcluster', 'run', '--help']; from bigcluster.cli import main; main()",
        "import sys; sys.argv = ['bigcluster', '--version']; from bigcluster.cli import main; main()",
    ],
    ids=["import", "cli", "supervising", "help", "run help", "version"],
)
def test_nothing_heavy_is_imported_to_answer(what: str) -> None:
    report = (
        f"import atexit, sys; atexit.register(lambda: print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{report}\n{what}"], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_dask_ml_is_imported_only_where_its_solver_is_chosen() -> None:
    modules = "bigcluster.pipeline.run, bigcluster.pipeline.sweep, bigcluster.pipeline.report, bigcluster.api"
    code = f"import sys, {modules}; print('dask_ml' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
