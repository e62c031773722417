"""A real second network, made of the weights in a package: it sees what MobileNetV2 sees. Nothing is unpickled."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path

import cv2
import efficientnet_lite0
import pytest

from bigcluster.models import Network, Options, open_network


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Network:
    weights = efficientnet_lite0.weights_file()
    if weights is None:
        pytest.skip(f"the package {efficientnet_lite0.PACKAGE} is not installed")
    folder = tmp_path_factory.mktemp("models")
    network = efficientnet_lite0.build(efficientnet_lite0.read_weights(weights)).SerializeToString()
    (folder / "efficientnet-lite0.onnx").write_bytes(network)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGCLUSTER_MODELS", str(folder))
        opened = open_network("efficientnet-lite0", Options(n_classes=5), offline=True)
    assert opened.note.endswith(
        f"has the SHA-256 {hashlib.sha256(network).hexdigest()}; the registry has none to compare it with"
    )
    return opened


def test_it_is_what_the_registry_says(lite0: Network) -> None:
    assert (lite0.name, lite0.layer, lite0.n_features, lite0.licence) == (
        "efficientnet-lite0", "features", 1280, "Apache-2.0",
    )  # fmt: skip


def test_two_networks_name_the_same_things(lite0: Network, shared: Path) -> None:
    """Of photographs on which MobileNetV2 is sure, the other network has the same class among its five."""
    other = open_network(str(shared / "models" / "mobilenetv2.onnx"), Options(n_classes=1))
    sure = same = 0
    for file in sorted((shared / "images" / "clothing").rglob("*.jpg"))[::40]:
        picture = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        best = other.describe(picture).classes[0]
        if best.probability > 0.6:
            sure += 1
            same += best.index in [probable.index for probable in lite0.describe(picture).classes]
    assert sure >= 10
    assert same / sure > 0.8


@pytest.mark.parametrize(
    "value", [print, b"bytes", 1.5, complex(1, 2), object], ids=["function", "bytes", "float", "complex", "class"]
)
def test_other_opcodes_and_names_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"the weights (name|have the opcode)"):
        efficientnet_lite0.read_pickle(io.BytesIO(pickle.dumps({"x": value}, protocol=2)))


def test_what_is_on_the_list_is_read_without_calls() -> None:
    value = {"a": [1, 2, 3], "b": (True, None, "text"), "c": {}}
    assert efficientnet_lite0.read_pickle(io.BytesIO(pickle.dumps(value, protocol=2))) == value
