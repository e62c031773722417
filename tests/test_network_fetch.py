"""Where the file of a network comes from: this machine without any call of the network, or a server, checked."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from file_server import DATA, DIGEST, Server, running_server, use_empty_cache
from networks import conv_net, save

from bigcluster.errors import FetchError, ModelError
from bigcluster.files.paths import cache_folder
from bigcluster.models import fetch, list_networks, open_network, show_network
from bigcluster.models.preprocess import Preprocessing, preprocessing_beside, preprocessing_from
from bigcluster.models.registry import Entry, KnownFile, find, imagenet_labels, recognize, registry
from bigcluster.runtime.events import StageAdvanced, StageStarted


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server, with an empty cache."""
    use_empty_cache(tmp_path / "cache", monkeypatch)
    running.requested_paths.clear()
    return running


def entry(*addresses: str, data: bytes = DATA) -> Entry:
    digest = hashlib.sha256(data).hexdigest()
    known = KnownFile("net.onnx", addresses, len(data), digest, Preprocessing(), "")
    return Entry("net", "a network", "MIT", (known,))


def left() -> list[str]:
    folder = fetch.models_folder()
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("kind", ["right", "slow", "unsized", "moved"])
def test_a_right_file_is_stored_once(server: Server, kind: str) -> None:
    events: list[Any] = []
    stored = fetch.get(entry(server.address(kind)), listener=events.append)
    assert stored.path == fetch.models_folder() / "net.onnx"
    assert stored.path.read_bytes() == DATA
    assert left() == ["net.onnx"]
    assert events[0] == StageStarted("download net", len(DATA), "bytes")
    advanced = [event.done for event in events if isinstance(event, StageAdvanced)]
    assert advanced[-1] == len(DATA)
    n_requests = len(server.requested_paths)
    assert fetch.get(entry(server.address(kind))) == stored
    assert len(server.requested_paths) == n_requests


def test_a_download_that_was_cut_is_begun_anew(server: Server) -> None:
    stored = fetch.get(entry(server.address("cut-once")))
    assert stored.path.read_bytes() == DATA
    assert server.requested_paths == ["/cut-once", "/cut-once"]
    assert left() == ["net.onnx"]


FAULTS = {
    "wrong": "sends a file with another SHA-256",
    "404": "answers 404",
    "html": "sends a web page instead of the file",
    "lfs": "sends a pointer of Git LFS",
    "empty": "sends an empty file",
    "long": "sends more than the 1,048,576 bytes of the file",
    "cut": "broke off 3 times",
    "silent": "was silent for 0.3 seconds",
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_wrong_answer_says_what_came_and_how_to_fetch_by_hand(server: Server, kind: str) -> None:
    address = server.address(kind)
    with pytest.raises(FetchError) as caught:
        fetch.get(entry(address), patience=0.3)
    said = str(caught.value)
    assert FAULTS[kind] in said
    assert "\n" not in said
    for needed in (
        address,
        f"{len(DATA):,} bytes",
        DIGEST,
        str(fetch.models_folder() / "net.onnx"),
        "BIGCLUSTER_MODELS",
    ):
        assert needed in said
    assert caught.value.exit_code == 1
    assert left() == [], "nothing half-written stays"


@pytest.mark.parametrize("kind", FAULTS)
def test_a_mirror_is_asked_where_the_first_address_fails(server: Server, kind: str) -> None:
    stored = fetch.get(entry(server.address(kind), server.address("right")), patience=0.3)
    assert stored.path.read_bytes() == DATA
    assert list(dict.fromkeys(server.requested_paths)) == [f"/{kind}", "/right"]
    assert left() == ["net.onnx"]


def test_a_server_that_is_not_there(server: Server) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}/x"
    with pytest.raises(FetchError, match="cannot be reached"):
        fetch.get(entry(closed))


def test_a_damaged_file_of_the_cache_is_fetched_anew(server: Server) -> None:
    fetch.models_folder().mkdir(parents=True)
    (fetch.models_folder() / "net.onnx").write_bytes(DATA[:1000])
    assert fetch.get(entry(server.address("right"))).path.read_bytes() == DATA


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(FetchError, match=r"cannot be written to .* set XDG_CACHE_HOME"):
        fetch.get(entry(server.address("right"), server.address("right")))


def test_two_at_the_same_time_get_a_whole_file(server: Server) -> None:
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(fetch.get(entry(server.address("slow"))).path.read_bytes()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [DATA] * 3
    assert left() == ["net.onnx"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a call of the network")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, forbidden)


@pytest.mark.parametrize("place", ["cache", "folder"])
def test_a_file_that_is_there_needs_no_network(
    server: Server, no_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = fetch.models_folder()
    if place == "folder":
        folder = tmp_path / "mine"
        monkeypatch.setenv("BIGCLUSTER_MODELS", str(folder))
    folder.mkdir(parents=True)
    (folder / "net.onnx").write_bytes(DATA)
    for offline in (False, True):
        assert fetch.get(entry(server.address("right")), offline=offline).path == folder / "net.onnx"
    assert list_networks(measure=False)
    assert server.requested_paths == []


def test_offline_asks_nobody(server: Server, no_network: None) -> None:
    with pytest.raises(FetchError, match=f"models.offline is true; by hand: fetch .*/right .*{DIGEST}"):
        fetch.get(entry(server.address("right")), offline=True)
    assert server.requested_paths == []


def test_a_wrong_file_of_the_user_is_named_and_kept(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIGCLUSTER_MODELS", str(tmp_path))
    (tmp_path / "net.onnx").write_bytes(b"mine")
    with pytest.raises(
        ModelError, match=f"its SHA-256 is {hashlib.sha256(b'mine').hexdigest()}, and should be {DIGEST}"
    ):
        fetch.get(entry(server.address("right")))
    assert (tmp_path / "net.onnx").read_bytes() == b"mine"
    assert server.requested_paths == []


def test_a_network_without_digest_is_taken_from_the_user_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dinov2 = find("dinov2-small")
    with pytest.raises(FetchError, match=r"no address and digest .* put dinov2-small.onnx into the folder"):
        fetch.get(dinov2)
    monkeypatch.setenv("BIGCLUSTER_MODELS", str(tmp_path))
    (tmp_path / "dinov2-small.onnx").write_bytes(DATA)
    stored = fetch.get(dinov2, offline=True)
    assert stored.path == tmp_path / "dinov2-small.onnx"
    assert f"has the SHA-256 {DIGEST}" in stored.note


# -- the registry


def test_every_network_can_be_fetched_or_says_that_it_cannot() -> None:
    assert {
        "mobilenetv2",
        "squeezenet",
        "resnet50-v2",
        "efficientnet-lite4",
        "efficientnet-lite0",
        "dinov2-small",
    } <= set(registry())
    for name, known in registry().items():
        assert known.about
        assert known.licence == "Apache-2.0", f"{name}: nothing that forbids a use is listed"
        for file in known.files:
            assert (file.sha256 is None) == (file.n_bytes is None), f"{name}: size and digest come together"
            if file.sha256 is None:
                assert not file.addresses, f"{name}: nothing is fetched that cannot be checked"
                assert file.note
            else:
                assert len(file.sha256) == 64
                assert recognize(file.sha256) == (known, file)
            assert all(address.startswith("https://") for address in file.addresses)
            assert file.preprocessing.size is not None


def test_the_labels_are_a_thousand_classes() -> None:
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert labels[0].startswith("tench")
    assert "background" not in labels


def test_unknown_names_bring_near_ones() -> None:
    with pytest.raises(ModelError, match="'mobilenet-v2' is neither a network \\(mobilenetv2"):
        find("mobilenet-v2")


# -- how pictures are prepared


def test_tables_are_checked() -> None:
    for table, said in (
        ({"sise": 3}, "unknown key 'sise'; known are size, mean"),
        ({"size": 0}, "size in t must be pixels from 1 to 4096"),
        ({"size": "big"}, "size in t must be pixels"),
        ({"mean": [1, 2]}, "mean in t must be three numbers"),
        ({"mean": [1, 2, float("nan")]}, "mean in t must be three numbers"),
        ({"std": [1, 2, 0]}, "std in t must be above 0"),
        ({"order": "GBR"}, "order in t must be one of RGB, BGR"),
        ({"layout": "HWC"}, "layout in t must be one of NCHW, NHWC"),
        ({"resize": 3}, "resize in t must be one of crop, squash, pad"),
        ({"pool": []}, "pool in t must be one of"),
        ({"prefix_tokens": -1}, "prefix_tokens in t must be a whole number"),
        ({"layer": ""}, "layer in t must be a text"),
    ):
        with pytest.raises(ModelError, match=said):
            preprocessing_from(table, "t")
    assert preprocessing_from({"size": [320, 240], "mean": 1, "std": 2}, "t") == Preprocessing(
        (320, 240), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)
    )


@pytest.mark.parametrize("place", ["beside", "above onnx"])
def test_a_preprocessor_config_is_read(tmp_path: Path, place: str) -> None:
    config: dict[str, Any] = {
        "crop_size": {"height": 224, "width": 256},
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.25, 0.5],
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 288},
    }
    path = tmp_path / "model.onnx" if place == "beside" else tmp_path / "onnx" / "model.onnx"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    preprocessing, where = preprocessing_beside(path, None)
    assert where == str(tmp_path / "preprocessor_config.json")
    assert preprocessing.size == (256, 224)
    assert preprocessing.mean == pytest.approx((127.5, 102, 76.5))
    assert preprocessing.std == pytest.approx((51, 63.75, 127.5))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": False, "do_rescale": False, "size": 128})
    )
    assert preprocessing_beside(path, None)[0] == Preprocessing((128, 128))


def test_a_wrong_preprocessor_config_is_one_line(tmp_path: Path) -> None:
    for text, said in (
        ("{", "cannot be read"),
        ("[]", "holds no settings"),
        ("{}", "no image_mean and image_std"),
        ('{"rescale_factor": 0}', "it must be above 0"),
        ('{"do_normalize": false, "size": {"longest": 3}}', "size in .* must be pixels"),
    ):
        (tmp_path / "preprocessor_config.json").write_text(text)
        with pytest.raises(ModelError, match=said):
            preprocessing_beside(tmp_path / "net.onnx", None)


def test_a_table_beside_the_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text("size = 99")
    registered = Preprocessing((1, 1))
    assert preprocessing_beside(tmp_path / "net.onnx", registered)[0].size == (99, 99)
    (tmp_path / "net.toml").unlink()
    assert preprocessing_beside(tmp_path / "net.onnx", registered)[0] is registered
    (tmp_path / "net.toml").write_text("size = ")
    with pytest.raises(ModelError, match=r"net.toml cannot be read"):
        preprocessing_beside(tmp_path / "net.onnx", registered)


# -- the command line


@pytest.fixture
def offline_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user for networks, which is empty, as the cache is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BIGCLUSTER_MODELS", str(tmp_path))
    return tmp_path


def test_models_lists_all(cli: Cli, offline_home: Path) -> None:
    (offline_home / "resnet50-v2-7.onnx").write_bytes(b"another")
    save(offline_home, conv_net(), name="efficientnet-lite0")
    ran = cli("models", "--json")
    assert ran.code == 0, ran.err
    networks = {network["name"]: network for network in json.loads(ran.out)["models"]}
    assert list(networks) == list(registry())
    assert networks["mobilenetv2"]["file"] is None
    assert networks["mobilenetv2"]["bytes"] == 13_964_571
    assert "is not the resnet50-v2 of the registry" in networks["resnet50-v2"]["fault"]
    assert networks["efficientnet-lite0"]["images_per_second"] > 0
    assert "has the SHA-256" in networks["efficientnet-lite0"]["note"]
    assert not (offline_home / "cache").exists(), "nothing is written"
    table = cli("models").out
    for name in registry():
        assert name in table


def test_models_shows_every_tensor(cli: Cli, tmp_path: Path) -> None:
    path = save(tmp_path, conv_net())
    ran = cli("models", "show", path, "--json")
    assert ran.code == 0, ran.err
    shown = json.loads(ran.out)
    assert shown["input"] == {"name": "pixels", "dtype": "float32", "layout": "NCHW", "width": 16, "height": 16}
    assert shown["default"]["layer"] == "features"
    assert shown["classifier"] == "logits"
    shapes = {tensor["name"]: (tensor["shape"], tensor["n_features"], tensor["pool"]) for tensor in shown["tensors"]}
    assert shapes == {
        "conv1": ([1, 8, 8, 8], 8, "avg"),
        "relu1": ([1, 8, 8, 8], 8, "avg"),
        "conv2": ([1, 12, 8, 8], 12, "avg"),
        "map": ([1, 12, 8, 8], 12, "avg"),
        "pooled": ([1, 12, 1, 1], 12, "none"),
        "features": ([1, 12], 12, "none"),
        "logits": ([1, 7], 7, "none"),
        "probabilities": ([1, 7], 7, "none"),
    }
    assert open_network(str(path)).n_features == 12
    table = cli("models", "show", path).out
    for name in shapes:
        assert name in table


def test_models_of_any_size_and_offline(cli: Cli, tmp_path: Path, offline_home: Path) -> None:
    path = save(tmp_path, conv_net(size="any"), table="mean = 1")
    assert show_network(str(path), size=(24, 32))["tensors"][0]["shape"] == [1, 8, 16, 12]
    assert cli("models", "show", path, "--size", "24x32").code == 0
    for arguments, code, said in (
        ((path,), 2, "takes pictures of any size, and nothing says which"),
        ((path, "--size", "native"), 2, "size must be a number of pixels"),
        ((path, "--set", "seed=3"), 2, "--set may name models.offline, not seed"),
        (("squeezenet", "--set", "models.offline=true"), 1, "by hand: fetch https://"),
        (("dinov2-small",), 1, "no address and digest"),
        (("nothing",), 2, "model: 'nothing' is neither a network"),
    ):
        ran = cli("models", "show", *arguments)
        assert ran.code == code, ran.err
        assert said in ran.err
        assert len(ran.err.splitlines()) == 1
        assert ran.out == ""


def test_the_real_networks_are_known_by_name_in_their_folder(
    cli: Cli, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared / "models"
    if not (folder / "mobilenetv2.onnx").is_file():
        pytest.skip(f"no real networks in {folder}")
    monkeypatch.setenv("BIGCLUSTER_MODELS", str(folder))
    networks = {network["name"]: network for network in list_networks(measure=False)}
    assert networks["mobilenetv2"]["file"] == str(folder / "mobilenetv2.onnx")
    assert open_network("mobilenetv1-025").n_features == 256
    shown = show_network("mobilenetv2")
    assert shown["default"]["layer"] == "features"
    assert len(shown["tensors"]) > 50
    assert cache_folder().name == "bigcluster"
