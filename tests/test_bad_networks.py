"""Networks that cannot be used, through the command line: one line, the right exit code, and nothing half-written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Ran, write_pictures
from file_server import DATA, DIGEST, Server, running_server, use_empty_cache
from networks import conv_net, model_of, picture_input, save, weights
from onnx import TensorProto, helper

from bigcluster.files.paths import cache_folder

Make = Callable[[Path], Path]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad networks") / "in"
    write_pictures(folder, 6)
    return folder


def refused(cli: Cli, images: Path, out: Path, features: object, code: int, *more: object) -> str:
    """The one line of a run that ends with this exit code and leaves nothing at all."""
    ran: Ran = cli("run", images, "--out", out, "-k", 2, "--features", features, *more)
    assert ran.code == code, ran.err
    assert ran.out == ""
    (line,) = ran.error_lines
    assert line.startswith("bigcluster: ")
    assert not out.exists(), "OUT is not even made"
    return line


def with_input(*inputs: Any) -> Any:
    nodes = [helper.make_node("Gemm", [inputs[0].name, "w"], ["features"], transB=1)]
    return model_of(nodes, list(inputs), ["features"], [weights("w", 4, 8)])


def without_picture(folder: Path) -> Path:
    return save(folder, with_input(helper.make_tensor_value_info("tokens", TensorProto.FLOAT, [1, 8])))


def of_several_inputs(folder: Path) -> Path:
    tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 8])
    return save(folder, with_input(picture_input("NCHW", "float32", 1, 16), tokens))


def custom(folder: Path) -> Path:
    model = conv_net()
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    return save(folder, model)


def without_weights(folder: Path) -> Path:
    model = conv_net()
    inputs = [helper.make_tensor_value_info(c.name, TensorProto.FLOAT, list(c.dims)) for c in model.graph.initializer]
    del model.graph.initializer[:]
    model.graph.input.extend(inputs)
    return save(folder, model)


def cut(folder: Path) -> Path:
    path = save(folder, conv_net())
    path.write_bytes(path.read_bytes()[:-500])
    return path


def of_any_size(folder: Path) -> Path:
    return save(folder, conv_net(size="any"), table="mean = 127.5\nstd = 127.5")


def without_table(folder: Path) -> Path:
    return save(folder, conv_net(), table="")


def plain(folder: Path) -> Path:
    return save(folder, conv_net())


def missing(folder: Path) -> Path:
    return folder / "nothing.onnx"


FILES: dict[str, tuple[Make, tuple[str, ...], str]] = {
    "without a picture": (without_picture, (), "has no image input: it must be"),
    "several inputs": (of_several_inputs, (), "has 2 inputs (pixels, input_ids), and a picture is one"),
    "custom operator": (custom, (), "custom operators are native code, and are not loaded"),
    "no weights": (without_weights, (), "has no weights: it is a graph alone"),
    "cut": (cut, (), "is no ONNX file, or is cut or damaged"),
    "size unknown": (of_any_size, (), "nothing says which; use features.size = 224"),
    "scaling unknown": (without_table, (), "nothing says how pictures are scaled"),
    "layer unknown": (plain, ("features.layer=featurs",), "no tensor 'featurs' from the picture; near are 'features'"),
    "another size": (plain, ("features.size=32",), "takes pictures of 16 x 16 pixels, and features.size says 32 x 32"),
    "no such file": (missing, (), "is neither a network"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_cannot_be_used_is_one_line(cli: Cli, images: Path, tmp_path: Path, kind: str) -> None:
    make, sets, said = FILES[kind]
    more = [word for value in sets for word in ("--set", value)]
    line = refused(cli, images, tmp_path / "out", make(tmp_path), 2, *more)
    assert said in line
    assert f"{tmp_path}/" in line, "the file is named"


def test_names_that_are_too_long_are_one_line(
    cli: Cli, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n" * 300, f"{'n' * 300}.onnx", f"{tmp_path}/{'n' * 300}.onnx"):
        line = refused(cli, images, tmp_path / "out", name, 2)
        assert line.startswith("bigcluster: features: '")
        assert line.endswith("cannot be read: File name too long")
    monkeypatch.setenv("BIGCLUSTER_MODELS", f"{tmp_path}/{'n' * 300}")
    line = refused(cli, images, tmp_path / "out", "mobilenetv2", 2)
    assert line.startswith("bigcluster: the folder of networks: '")
    assert line.endswith("cannot be read: File name too long")


def test_a_tensor_with_a_name_that_is_markup_is_shown_as_it_is(cli: Cli, tmp_path: Path) -> None:
    model = conv_net()
    name = "[/red][bold]map"
    model.graph.node[3].output[0] = model.graph.node[4].input[0] = name
    ran = cli("models", "show", save(tmp_path, model))
    assert ran.code == 0, ran.err
    assert name in ran.out


def test_a_network_that_does_not_fit_into_the_budget_is_not_read(cli: Cli, images: Path, tmp_path: Path) -> None:
    path = plain(tmp_path)
    with open(path, "ab") as file:
        file.truncate(2_000_000_000)  # a hole, which takes no room on the disk
    line = refused(cli, images, tmp_path / "out", path, 2, "--memory", "600MB")
    assert "net.onnx takes about" in line
    assert "the memory budget leaves" in line


def test_a_network_in_the_current_folder(
    cli: Cli, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets").mkdir()
    plain(tmp_path / "nets")
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("nets/net.onnx", "./nets/net.onnx")):
        ran = cli("run", images, "--out", tmp_path / str(i), "-k", 2, "--features", name)
        assert ran.code == 0, ran.err


def test_settings_of_networks_beside_pixels_are_refused(cli: Cli, images: Path, tmp_path: Path) -> None:
    line = refused(cli, images, tmp_path / "out", "color", 2, "--set", "features.classes=5")
    assert "features.classes = 5 is for a network, and features = color are the pixels themselves" in line


def test_a_wrong_file_in_the_folder_of_the_user(
    cli: Cli, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGCLUSTER_MODELS", str(tmp_path))
    (tmp_path / "mobilenetv2-12.onnx").write_bytes(b"mine")
    line = refused(cli, images, tmp_path / "out", "mobilenetv2", 2)
    assert f"its SHA-256 is {hashlib.sha256(b'mine').hexdigest()}, and should be" in line
    assert (tmp_path / "mobilenetv2-12.onnx").read_bytes() == b"mine"


# -- downloads


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def registry(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server, and processes whose registry has one network for every answer of it."""
    kinds = ("404", "html", "cut", "empty", "wrong")
    table = "".join(
        f'[net-{kind}]\nabout = "a network"\nlicence = "MIT"\n[[net-{kind}.files]]\nfile = "net.onnx"\n'
        f'addresses = ["{running.address(kind)}"]\nbytes = {len(DATA)}\nsha256 = "{DIGEST}"\n'
        for kind in kinds
    )
    (tmp_path / "registry.toml").write_text(table)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import pathlib\nfrom bigcluster.models import registry\n"
        f"registry._TABLE = pathlib.Path({str(tmp_path / 'registry.toml')!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    use_empty_cache(tmp_path / "cache", monkeypatch)
    running.requested_paths.clear()
    return running


DOWNLOADS = {
    "404": "answers 404",
    "html": "sends a web page instead of the file",
    "cut": "broke off 3 times",
    "empty": "sends an empty file",
    "wrong": "sends a file with another SHA-256",
}


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_a_download_that_fails_is_one_line(cli: Cli, images: Path, registry: Server, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    line = refused(cli, images, out, f"net-{kind}", 1, "--quiet")
    assert DOWNLOADS[kind] in line
    for needed in (registry.address(kind), f"{len(DATA):,} bytes", DIGEST, "BIGCLUSTER_MODELS"):
        assert needed in line
    assert registry.requested_paths
    models = cache_folder() / "models"
    assert not models.is_dir() or not list(models.iterdir()), "nothing half-written stays"


def test_offline_without_the_file_asks_nobody(cli: Cli, images: Path, registry: Server, tmp_path: Path) -> None:
    line = refused(cli, images, tmp_path / "out", "net-404", 1, "--set", "models.offline=true")
    assert "models.offline is true; by hand: fetch" in line
    assert registry.requested_paths == []
