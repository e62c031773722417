"""Networks describe pictures exactly as ONNX Runtime does by hand, in any layout; and threads change nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import TABLE, conv_net, model_of, picture_input, save, transformer, weights, with_outputs
from onnx import helper, numpy_helper

from bigcluster.config import resolve
from bigcluster.errors import ModelError
from bigcluster.kernels.decode import network_input, scaling_tables
from bigcluster.kernels.decode.resize import resize_for_network
from bigcluster.models import Network, Options, images_per_second, open_network
from bigcluster.models.pooling import pooling_of
from bigcluster.models.preprocess import Preprocessing
from bigcluster.models.session import PROVIDERS
from bigcluster.runtime.onnx_runtime import onnx_runtime
from bigcluster.stages.embedding import NetworkEmbedding, open_embedding

onnxruntime = onnx_runtime()

MEAN, STD = (127.5, 120.0, 110.0), (127.5, 60.0, 50.0)


def photo(seed: int, height: int = 40, width: int = 60) -> Any:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def by_hand(model: Any, tensor: str, value: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        with_outputs(model, tensor).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: value})[0]


def cropped(picture: Any, size: int = 16) -> Any:
    """The largest middle square, resized by area; bilinearly where it shrinks to more than half."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    how = cv2.INTER_LINEAR if size <= side < 2 * size else cv2.INTER_AREA
    return cv2.resize(picture[top : top + side, left : left + side], (size, size), interpolation=how)


def scaled(small: Any) -> Any:
    """(h, w, 3) uint8 -> the same, scaled, float32."""
    return ((small.astype(np.float64) - MEAN) / STD).astype(np.float32)


@pytest.mark.parametrize("batch", [1, "n"])
@pytest.mark.parametrize("size", [16, "any"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_features_are_those_of_the_network_run_by_hand(tmp_path: Path, layout: str, size: Any, batch: Any) -> None:
    model = conv_net(layout=layout, size=size, batch=batch)
    network = open_network(str(save(tmp_path, model)))
    assert (network.layer, network.n_features, network.width, network.height) == ("features", 12, 16, 16)
    for seed in range(3):
        value = scaled(cropped(photo(seed)))[None]
        value = value.transpose(0, 3, 1, 2).copy() if layout == "NCHW" else value
        np.testing.assert_array_equal(network.features(photo(seed)), by_hand(model, "features", value)[0])


def test_a_network_of_uint8_is_given_grey_levels(tmp_path: Path) -> None:
    model = conv_net(layout="NHWC", dtype="uint8")
    network = open_network(str(save(tmp_path, model, table="size = 16")))
    small = cropped(photo(0))
    np.testing.assert_array_equal(network.prepare(photo(0))[0], small)
    np.testing.assert_array_equal(network.features(photo(0)), by_hand(model, "features", small[None])[0])
    with pytest.raises(ModelError, match="takes uint8, so its mean must be 0"):
        open_network(str(save(tmp_path, model)))


def test_a_network_of_float16_is_given_float16(tmp_path: Path) -> None:
    model = conv_net(dtype="float16")
    network = open_network(str(save(tmp_path, model)))
    value = scaled(cropped(photo(0))).transpose(2, 0, 1)[None].astype(np.float16)
    np.testing.assert_array_equal(network.features(photo(0)), by_hand(model, "features", value)[0])


def test_a_network_of_grey_pictures_is_given_luma(tmp_path: Path) -> None:
    model = conv_net(channels=1)
    network = open_network(str(save(tmp_path, model, table="size = 16\nmean = 120.0\nstd = 60.0")))
    luma = cv2.cvtColor(cropped(photo(0)), cv2.COLOR_RGB2GRAY)
    value = ((luma.astype(np.float64) - 120) / 60).astype(np.float32)[None, None]
    np.testing.assert_array_equal(network.features(photo(0)), by_hand(model, "features", value)[0])


def test_old_files_list_their_weights_as_inputs(tmp_path: Path) -> None:
    model = conv_net(ir_version=3)
    network = open_network(str(save(tmp_path, model)))
    same = open_network(str(save(tmp_path, conv_net(), name="new")))
    np.testing.assert_array_equal(network.features(photo(0)), same.features(photo(0)))


def test_classes_come_from_the_same_run_and_leave_the_features_alone(tmp_path: Path) -> None:
    model = conv_net()
    path = save(tmp_path, model)
    alone, both = open_network(str(path)), open_network(str(path), Options(n_classes=5))
    assert alone.fingerprint == both.fingerprint
    for seed in range(5):
        seen = both.describe(photo(seed))
        np.testing.assert_array_equal(seen.features, alone.features(photo(seed)))
        shares = by_hand(model, "probabilities", scaled(cropped(photo(seed))).transpose(2, 0, 1)[None])[0]
        assert [c.index for c in seen.classes] == list(np.argsort(-shares)[:5])
        np.testing.assert_allclose([c.probability for c in seen.classes], np.sort(shares)[::-1][:5], atol=1e-6)
        assert seen.classes[0].name == f"class {seen.classes[0].index}"
    assert alone.describe(photo(0)).classes == ()


def test_class_names_come_from_a_file_beside(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
    path = save(tmp_path, conv_net(), table="size = 16\nlabels = 'names.txt'")
    best = open_network(str(path), Options(n_classes=1)).describe(photo(0)).classes[0]
    assert best.name == "abcdefg"[best.index]
    (tmp_path / "names.txt").write_text("one\ntwo")
    with pytest.raises(ModelError, match="7 classes, and its list of names has 2"):
        open_network(str(path), Options(n_classes=1))


@pytest.mark.parametrize(
    ("layer", "pool", "n_features"),
    [("map", None, 12), ("map", "max", 12), ("map", "gem", 12), ("map", "flatten", 12 * 64), ("relu1", "avg", 8),
     ("logits", None, 7), ("pooled", None, 12)],
)  # fmt: skip
def test_any_layer_and_pool(tmp_path: Path, layer: str, pool: str | None, n_features: int) -> None:
    model = conv_net()
    network = open_network(str(save(tmp_path, model)), Options(layer=layer, pool=pool))
    value = by_hand(model, layer, scaled(cropped(photo(1))).transpose(2, 0, 1)[None]).astype(np.float64)
    expected = {
        "max": lambda v: v.max((2, 3)),
        "gem": lambda v: (np.maximum(v, 1e-6) ** 3).mean((2, 3)) ** (1 / 3),
        "flatten": lambda v: v,
        "none": lambda v: v,
        "avg": lambda v: v.mean((2, 3)),
    }[network.pool](value).reshape(-1)
    assert network.n_features == n_features == len(expected)
    assert network.features(photo(1)).dtype == np.float32
    np.testing.assert_allclose(network.features(photo(1)), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_tokens_by_class_token_or_mean_without_registers(tmp_path: Path, prefix: int) -> None:
    model = transformer(prefix=prefix)
    path = str(save(tmp_path, model))
    value = by_hand(model, "last_hidden_state", scaled(cropped(photo(0))).transpose(2, 0, 1)[None])
    assert value.shape == (1, 16 + prefix, 16)
    mean = open_network(path, Options(pool="mean"))
    assert mean.layer == "last_hidden_state"
    expected = value[0, prefix:].mean(axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(mean.features(photo(0)), expected)
    if prefix:
        np.testing.assert_array_equal(open_network(path).features(photo(0)), value[0, 0])
    else:
        np.testing.assert_array_equal(open_network(path).features(photo(0)), expected)
        with pytest.raises(ModelError, match=r"no class token; use features.pool = mean"):
            open_network(path, Options(pool="cls"))


def test_tokens_whose_number_nobody_knows_are_not_averaged() -> None:
    with pytest.raises(ModelError, match="prefix_tokens = 1"):
        pooling_of((1, 10, 4), "mean")
    assert pooling_of((1, 10, 4), None).name == "cls"
    assert pooling_of((1, 10, 4), "mean", prefix_tokens=2).apply(np.ones((1, 10, 4))).tolist() == [1, 1, 1, 1]
    with pytest.raises(ModelError, match="must be cls, mean or flatten"):
        pooling_of((1, 10, 4), "max")
    with pytest.raises(ModelError, match="must be one of avg, max, gem, flatten"):
        pooling_of((1, 10, 4, 4), "cls")


@pytest.mark.parametrize("make", [conv_net, transformer], ids=["convolutions", "transformer"])
def test_threads_and_neighbours_change_no_bit(tmp_path: Path, make: Any) -> None:
    path = str(save(tmp_path, make()))
    pictures = [photo(seed, 20 + seed, 30 + 3 * seed) for seed in range(24)]

    def digest(threads: int, order: list[int]) -> str:
        network = open_network(path)
        with ThreadPoolExecutor(threads) as pool:
            rows = dict(zip(order, pool.map(lambda i: network.features(pictures[i]).copy(), order), strict=True))
        return hashlib.sha256(b"".join(rows[i].tobytes() for i in range(len(pictures)))).hexdigest()

    forwards = list(range(len(pictures)))
    first = digest(1, forwards)
    assert digest(2, forwards) == digest(4, forwards[::-1]) == digest(3, [*forwards[7:], *forwards[:7]]) == first
    alone = open_network(path).features(pictures[9])
    assert alone.tobytes() == open_network(path).features(pictures[9]).tobytes()


# -- preparation of pictures


@settings(max_examples=60)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from(["crop", "squash", "pad"]), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_inputs_are_the_same_in_every_layout(
    height: int, width: int, to_height: int, to_width: int, rule: str, bgr: bool, gray: bool, first: bool
) -> None:
    picture = np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    tables = scaling_tables(MEAN, STD)
    out = np.full((3, to_height, to_width) if first else (to_height, to_width, 3), np.nan, np.float32)
    network_input(picture, out, tables, rule=rule, channels_first=first, bgr=bgr, gray=gray)
    identity = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    small = np.zeros((to_height, to_width, 3), np.uint8)
    network_input(picture, small, identity, rule=rule, channels_first=False, bgr=False, gray=gray)
    if rule == "squash" and (height, width) == (to_height, to_width) and not gray:
        np.testing.assert_array_equal(small, picture)
    expected = scaled(small)[..., ::-1] if bgr else scaled(small)
    np.testing.assert_array_equal(out.transpose(1, 2, 0) if first else out, expected)


@pytest.mark.parametrize("rule", ["crop", "squash", "pad"])
@pytest.mark.parametrize("sides", [(300, 200), (40, 60), (9, 20)])
def test_a_picture_that_has_the_size_of_the_input_gives_the_same_features(
    tmp_path: Path, rule: str, sides: tuple[int, int]
) -> None:
    """What a decode makes beforehand (`DecodeSpec.view`) and what a network makes of a whole picture are the same."""
    network = open_network(str(save(tmp_path, conv_net())), Options(resize=rule))
    whole = photo(5, *sides)
    small = resize_for_network(whole, 16, 16, rule)
    np.testing.assert_array_equal(network.features(small), network.features(whole))


def test_padding_repeats_the_edges() -> None:
    picture = np.zeros((8, 4, 3), np.uint8)
    picture[:, 0], picture[:, 3] = 10, 20
    small = np.zeros((8, 8, 3), np.uint8)
    identity = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    network_input(picture, small, identity, rule="pad", channels_first=False, bgr=False, gray=False)
    assert (small[:, :3] == 10).all()
    assert (small[:, 5:] == 20).all()


# -- what is asked for


def test_options_are_checked(tmp_path: Path) -> None:
    path = str(save(tmp_path, conv_net()))
    for options, said in (
        (Options(resize="zoom"), "features.resize must be one of crop, squash, pad"),
        (Options(pool="sum"), "features.pool must be one of avg"),
        (Options(provider="tpu"), "the provider must be one of cpu, cuda"),
        (Options(size=(32, 32)), "takes pictures of 16 x 16 pixels, and features.size says 32 x 32"),
        (Options(layer="featurs"), "no tensor 'featurs' from the picture; near are 'features'"),
        (Options(layer="w1"), "computes no tensor 'w1'"),
        (Options(n_classes=8), "features.classes = 8, and .* has 7 classes; give features.classes = 7 or fewer"),
    ):
        with pytest.raises(ModelError, match=said):
            open_network(path, options)
    with pytest.raises(ModelError, match="has no classifier"):
        open_network(str(save(tmp_path, conv_net(head="none"), name="headless")), Options(n_classes=5))


def test_the_table_of_a_network_says_how_its_pictures_are_resized_and_pooled(tmp_path: Path) -> None:
    """An option that nobody gives leaves it as the table says, through the settings too."""
    table = TABLE.format(size=16) + "resize = 'pad'\npool = 'max'\nlayer = 'map'\n"
    path = str(save(tmp_path, conv_net(), table=table))
    for values, expected in (
        ({}, ("pad", "max")),
        ({"features.resize": "squash"}, ("squash", "max")),
        ({"features.pool": "avg", "features.resize": "crop"}, ("crop", "avg")),
    ):
        embedding = open_embedding(resolve(flags={"features": path, **values}, sets=(), config=None, kept=None))
        assert isinstance(embedding, NetworkEmbedding)
        assert (embedding.network.resize, embedding.network.pool) == expected
    plain = open_network(str(save(tmp_path, conv_net(), name="plain")))
    assert (plain.resize, plain.pool) == ("crop", "none")


def test_a_provider_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = str(save(tmp_path, conv_net()))
    missing = [name for name, theirs in PROVIDERS.items() if theirs not in onnxruntime.get_available_providers()]
    assert missing
    with pytest.raises(ModelError, match=f"the provider {missing[0]} is not there: this ONNX Runtime has cpu"):
        open_network(path, Options(provider=missing[0]))


def test_a_free_size_is_chosen(tmp_path: Path) -> None:
    table = "mean = 127.5\nstd = 127.5"
    path = str(save(tmp_path, conv_net(size="any"), table=table))
    network = open_network(path, Options(size=(24, 16)))
    assert network.prepare(photo(0)).shape == (1, 3, 16, 24)
    with pytest.raises(ModelError, match=r"any size, and nothing says which; use features.size = 224"):
        open_network(path)


def test_the_fingerprint_covers_what_decides_the_features(tmp_path: Path) -> None:
    path = str(save(tmp_path, conv_net()))
    first = open_network(path)
    others = [
        open_network(path, options).fingerprint
        for options in (Options(layer="logits"), Options(resize="pad"), Options(gray=True), Options(layer="map"),
                        Options(layer="map", pool="max"))
    ]  # fmt: skip
    others.append(open_network(str(save(tmp_path, conv_net(), name="other", table="size = 16"))).fingerprint)
    others.append(open_network(str(save(tmp_path, conv_net(size="any"), name="free"))).fingerprint)
    assert len({first.fingerprint, *others}) == len(others) + 1
    assert open_network(path).fingerprint == first.fingerprint
    assert {"onnxruntime", "cpu", "sha256"} <= first.identity.keys()


def depending(end: list[Any], *constants: Any) -> Any:
    """A network, of which `end` makes `seen`, and `bright` says whether the picture is brighter than black."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["p"]),
        helper.make_node("Flatten", ["p"], ["means"]),
        helper.make_node("Gemm", ["means", "w"], ["f"]),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "black"], ["bright"]),
        *end,
    ]
    values = [
        numpy_helper.from_array(np.array(value), name)
        for name, value in {"black": np.float32(-0.9), "zero": [0], "one": [1], "eight": [8]}.items()
    ]
    initializers = [weights("w", 3, 8), *values, *constants]
    return model_of(nodes, [picture_input("NCHW", "float32", 1, 16)], ["seen"], initializers)


def filled(path: Path, n_classes: int = 0, layer: str | None = None) -> tuple[str, str]:
    """What is said of a black and of a white picture."""
    network = open_network(str(path), Options(n_classes=n_classes, layer=layer))
    embedding = NetworkEmbedding(network, True, n_classes, 0.0)
    out = np.zeros(embedding.n_features + 2 * n_classes, np.float32)
    black, white = (embedding.fill(0, np.full((16, 16, 3), level, np.uint8), out) for level in (0, 255))
    return black, white


@pytest.mark.parametrize(("black", "white"), [("eight", "one"), ("one", "eight")])
def test_a_length_that_depends_on_the_picture_is_no_features(tmp_path: Path, black: str, white: str) -> None:
    cut = [
        helper.make_node("Where", ["bright", white, black], ["n"]),
        helper.make_node("Slice", ["f", "zero", "n", "one"], ["seen"]),
    ]
    counts = {"one": 1, "eight": 8}
    message = f"the network gives {counts[white]} values, expected {counts[black]}"
    assert filled(save(tmp_path, depending(cut))) == ("", message)
    tokens = [
        helper.make_node("Where", ["bright", white, black], ["n"]),
        helper.make_node("Add", ["n", "one"], ["n_tokens"]),
        helper.make_node("Concat", ["one", "n_tokens", "one"], ["shape"], axis=0),
        helper.make_node("Expand", ["f", "shape"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "v"], ["seen"]),
    ]
    message = f"the network gives {5 * counts[white] + 5} classes, expected {5 * counts[black] + 5}"
    assert filled(save(tmp_path, depending(tokens, weights("v", 8, 5))), 1) == ("", message)


def test_an_order_of_axes_that_depends_on_the_picture_is_no_features(tmp_path: Path) -> None:
    shapes = {"flat": [1, 8], "turned": [8, 1]}
    end = [
        helper.make_node("Where", ["bright", "turned", "flat"], ["shape"]),
        helper.make_node("Reshape", ["f", "shape"], ["seen"]),
    ]
    constants = [numpy_helper.from_array(np.array(shape), name) for name, shape in shapes.items()]
    black, white = filled(save(tmp_path, depending(end, *constants)))
    assert (black, white) == ("", "the network gives a tensor (8, 1) of another shape than of other pictures")


def test_scores_of_classes_that_are_not_finite_are_no_features(tmp_path: Path) -> None:
    end = [
        helper.make_node("MatMul", ["f", "v"], ["m"]),
        helper.make_node("Mul", ["m", "huge"], ["large"]),
        helper.make_node("Mul", ["large", "huge"], ["seen"]),
    ]
    model = depending(end, weights("v", 8, 8), numpy_helper.from_array(np.array(1e30, np.float32), "huge"))
    said = "the network gives a score of a class that is not finite"
    assert filled(save(tmp_path, model), 2) == (said, said)


def test_every_value_of_the_table_that_changes_what_is_stored_changes_the_fingerprint(tmp_path: Path) -> None:
    def stored(**changed: Any) -> str:
        table = {"size": 16, "mean": 100.0, "std": 50.0, "layer": "last_hidden_state", "pool": "mean"}
        lines = [f"{key} = {value!r}\n" for key, value in (table | {"prefix_tokens": 1} | changed).items()]
        path = save(tmp_path, transformer(prefix=2, size="any"), table="".join(lines))
        return NetworkEmbedding(open_network(str(path)), True, 0, 0.0).fingerprint

    def with_classes(**changed: Any) -> str:
        lines = [f"{key} = {value!r}\n" for key, value in changed.items()]
        path = save(tmp_path, conv_net(head="convolution"), table="".join(lines))
        (tmp_path / "names.txt").write_text("\n".join("abcdefg"))
        return NetworkEmbedding(open_network(str(path), Options(n_classes=2)), True, 2, 0.0).fingerprint

    changes = {"size": 32, "mean": 99.0, "std": 51.0, "order": "BGR", "resize": "pad", "layer": "sum", "pool": "cls",
             "prefix_tokens": 2}  # fmt: skip
    prints = [stored(), *(stored(**{key: value}) for key, value in changes.items())]
    assert len(set(prints)) == len(prints)
    plain = {"size": 16, "head": "convolution"}
    named = [with_classes(**plain), with_classes(**plain, labels="names.txt")]
    assert named[0] != named[1], "the names of classes are stored too"
    keys = {item.name for item in fields(Preprocessing)}
    assert keys == {*changes, "head", "labels", "layout"}, "head decides layer and classifier, layout stands beside"


# -- the real networks


@pytest.fixture(scope="module")
def real(shared: Path) -> Network:
    path = shared / "models" / "mobilenetv2.onnx"
    if not path.is_file():
        pytest.skip(f"no real network: {path} does not exist")
    return open_network(str(path), Options(n_classes=5))


def test_a_real_network_is_recognized_by_its_digest(real: Network) -> None:
    assert (real.name, real.licence, real.layer, real.n_features) == ("mobilenetv2", "Apache-2.0", "features", 1280)
    assert (real.width, real.height) == (224, 224)
    assert real.memory.session_bytes > 14e6


def test_real_features_and_classes_agree_with_a_plain_script(real: Network, shared: Path) -> None:
    session = onnxruntime.InferenceSession(str(real.path), providers=["CPUExecutionProvider"])
    files = sorted((shared / "images" / "clothing").rglob("*.jpg"))[::300]
    assert files
    for file in files:
        picture = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        value = cropped(picture, 224).transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - np.float32(1)
        features, logits = session.run(["features", "logits"], {"input": value})
        seen = real.describe(picture)
        np.testing.assert_allclose(seen.features, features[0], atol=1e-4)
        shares = np.exp(logits[0] - logits[0].max())
        shares /= shares.sum()
        assert [c.index for c in seen.classes] == list(np.argsort(-shares)[:5])
        np.testing.assert_allclose([c.probability for c in seen.classes], np.sort(shares)[::-1][:5], atol=1e-5)


def test_threads_change_no_bit_of_a_real_network(real: Network) -> None:
    pictures = [photo(seed, 230, 300) for seed in range(8)]
    expected = [real.features(picture).tobytes() for picture in pictures]
    for threads in (2, 4):
        with ThreadPoolExecutor(threads) as pool:
            assert list(pool.map(lambda picture: real.features(picture).tobytes(), pictures)) == expected
    plain = open_network(str(real.path))
    assert [plain.features(picture).tobytes() for picture in pictures] == expected, "classes beside change no bit"


def test_the_speed_is_measured(tmp_path: Path) -> None:
    assert images_per_second(open_network(str(save(tmp_path, conv_net())))) > 0


USE = """
import sys, threading
import numpy as np
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from bigcluster.models import open_network
from bigcluster.runtime.sampler import release_memory, resident_bytes

pictures = [np.random.default_rng(i).integers(0, 256, (224, 224, 3), dtype=np.uint8) for i in range(4)]
import bigcluster.models.session
bigcluster.models.session.runtime_version()
release_memory()
before = resident_bytes()
network = open_network(sys.argv[1])
together = threading.Barrier(4)

def work(_):
    together.wait()
    for picture in pictures:
        network.features(picture)

with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(4)))
print(resident_bytes() - before, network.memory.session_bytes + 4 * network.memory.thread_bytes)
"""
AROUND_BYTES = 24 << 20
"""What threads and freed memory of the allocator add, which is no part of a network."""


def test_the_measured_memory_covers_four_threads(real: Network) -> None:
    done = subprocess.run(
        [sys.executable, "-c", USE, str(real.path)], env=environment(), capture_output=True, text=True, check=True
    )
    grown, projected = map(int, done.stdout.split())
    assert grown <= projected + AROUND_BYTES
    assert projected <= 2 * grown
