"""ONNX files of strangers: what is read, what is refused in one line, and which tensor is taken by default."""

from __future__ import annotations

import contextlib
import os
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    ENDLESS_TABLE,
    conv_net,
    endless_net,
    model_of,
    picture_input,
    save,
    transformer,
    weights,
    with_outputs,
)
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from bigcluster.errors import MemoryBudgetError, ModelError
from bigcluster.models import Options, onnx_file, open_network, session, weight_files
from bigcluster.models.graph import NetworkGraph
from bigcluster.models.onnx_file import read_onnx


def graph_of(folder: Path, model: Any) -> NetworkGraph:
    return NetworkGraph(read_onnx(save(folder, model)))


def refused(path: Path | str, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        open_network(str(path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


# -- which tensor


def test_what_goes_into_the_last_matrix_product_is_taken(tmp_path: Path) -> None:
    chosen = graph_of(tmp_path, conv_net()).choose()
    assert (chosen.layer, chosen.logits) == ("features", "logits")
    assert chosen.why == "it goes into the last matrix product"


def test_a_classifier_that_is_a_convolution_has_to_be_told(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, conv_net(head="convolution"))
    assert graph.choose().layer == "logits", "never a softmax"
    assert graph.choose().logits is None
    chosen = graph.choose(head="convolution")
    assert (chosen.layer, chosen.logits) == ("map", "logits")


def test_a_network_without_classifier_gives_its_output(tmp_path: Path) -> None:
    assert graph_of(tmp_path, conv_net(head="none")).choose().layer == "features"
    assert graph_of(tmp_path, transformer()).choose().layer == "last_hidden_state"


def test_a_classifier_of_several_operators_is_passed(tmp_path: Path) -> None:
    model = conv_net()
    del model.graph.node[-2:]
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["features", "m"], ["product"]),
            helper.make_node("Add", ["product", "b3"], ["biased"]),
            helper.make_node("Reshape", ["biased", "shape"], ["shaped"]),
            helper.make_node("Softmax", ["shaped"], ["probabilities"]),
        ]
    )
    model.graph.initializer.extend([weights("m", 12, 7), numpy_helper.from_array(np.array([1, 7]), "shape")])
    chosen = graph_of(tmp_path, model).choose()
    assert (chosen.layer, chosen.logits) == ("features", "shaped")


def test_what_follows_the_layer_is_pruned(tmp_path: Path) -> None:
    graph = graph_of(tmp_path, conv_net())
    whole, small = graph.pruned(["probabilities"]), graph.pruned(["map"])
    pruned = onnx.load_from_string(small)
    assert [node.op_type for node in pruned.graph.node] == ["Conv", "Relu", "Conv", "Relu"]
    assert {tensor.name for tensor in pruned.graph.initializer} == {"w1", "w2"}
    assert len(onnx.load_from_string(whole).graph.node) == 8


def test_what_is_kept_keeps_its_bytes(tmp_path: Path) -> None:
    """All that the onnx package reads from the written file is what it reads from the original."""
    for model in (conv_net(), conv_net(ir_version=3), conv_net(layout="NHWC"), transformer(prefix=3)):
        graph = graph_of(tmp_path, model)
        outputs = [output.name for output in model.graph.output]
        again = onnx.load_from_string(graph.pruned(outputs))
        assert list(again.graph.node) == list(model.graph.node)
        assert list(again.graph.initializer) == list(model.graph.initializer)
        assert list(again.opset_import) == list(model.opset_import)
        assert [value.name for value in again.graph.input] == [value.name for value in model.graph.input]


def test_inner_graphs_keep_what_they_read_from_outside(tmp_path: Path) -> None:
    def branch(name: str, op: str) -> Any:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["map"], [name])], name, [], [out])

    model = conv_net()
    node = helper.make_node("If", ["yes"], ["either"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg"))
    model.graph.node.insert(4, node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph = graph_of(tmp_path, model)
    assert "either" in graph.tensors
    pruned = onnx.load_from_string(graph.pruned(["either"]))
    assert [node.op_type for node in pruned.graph.node] == ["Conv", "Relu", "Conv", "Relu", "If"]


def test_functions_of_the_file_are_no_custom_operators(tmp_path: Path) -> None:
    function = helper.make_function(
        "of.file", "Twice", ["x"], ["y"], [helper.make_node("Add", ["x", "x"], ["y"])], [helper.make_opsetid("", 17)]
    )
    model = conv_net()
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("of.file", 1))
    model.graph.node.insert(4, helper.make_node("Twice", ["map"], ["twice"], domain="of.file"))
    path = save(tmp_path, model, table="size = 16\nlayer = 'twice'")
    plain = open_network(str(save(tmp_path, conv_net(), name="plain", table="size = 16\nlayer = 'map'")))
    picture = np.full((20, 20, 3), 99, np.uint8)
    np.testing.assert_allclose(open_network(str(path)).features(picture), 2 * plain.features(picture))


def test_functions_that_call_each_other_are_bounded(tmp_path: Path) -> None:
    def twice(name: str, *operators: tuple[str, str]) -> Any:
        nodes = [helper.make_node(op, ["x"], ["a"], domain=domain) for op, domain in operators[:1]]
        nodes += [helper.make_node(op, ["a"], ["y"], domain=domain) for op, domain in operators[1:]]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("of.file", 1)]
        return helper.make_function("of.file", name, ["x"], ["y"], nodes, opsets)

    for depth in (3, 40):
        model = conv_net()
        model.functions.extend(twice(f"F{i}", *[(f"F{i + 1}", "of.file")] * 2) for i in range(depth))
        model.functions.append(twice(f"F{depth}", ("Neg", ""), ("Relu", "")))
        model.opset_import.append(helper.make_opsetid("of.file", 1))
        model.graph.node.insert(4, helper.make_node("F0", ["map"], ["seen"], domain="of.file"))
        path = save(tmp_path, model, table="size = 16\nlayer = 'seen'")
        if depth == 3:
            assert open_network(str(path)).n_features == 12
    refused(path, "has functions that make more than 100,000 nodes")


# -- what is refused


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_cut_file(tmp_path: Path, share: float) -> None:
    path = save(tmp_path, conv_net())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, "is empty" if not share else "is no ONNX file, or is cut or damaged")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\xff" * 100, "is no ONNX file"),
        (b"\0" * 100, "is no ONNX file"),
        (b"hello, world", "is no ONNX file"),
        (b"\x08\x07", "has no version, or no graph"),
    ],
)
def test_what_is_no_network(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "net.onnx").write_bytes(data)
    refused(tmp_path / "net.onnx", said)


@pytest.mark.parametrize("number", [14, 13, 5])
def test_numbers_of_fields_that_other_readers_cut_to_32_bits(tmp_path: Path, number: int) -> None:
    key = (number << 3) + (1 << 32)
    path = save(tmp_path, conv_net())
    path.write_bytes(path.read_bytes() + varint(key) + b"\1")
    refused(path, "a field has the number")


def test_weights_of_pytorch_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.onnx", "w") as archive:
        archive.writestr("data.pkl", b"x")
    refused(tmp_path / "net.onnx", "export the network to ONNX")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(tmp_path / "fifo", "cannot be read: it is not a regular file")
    refused(tmp_path, "is a folder; give the ONNX file in it")
    refused(tmp_path / "absent.onnx", "is neither a network .* nor a file")
    refused("mobilenetv22", "is neither a network \\(mobilenetv2")


def test_custom_operators_and_those_that_load_code(tmp_path: Path) -> None:
    for domain, op, said in (
        ("my.ops", "Magic", "needs the operator 'Magic' of the domain 'my.ops'"),
        ("com.microsoft.nchwc", "Conv", "custom operators are native code"),
        ("com.microsoft", "EPContext", "loads code or data from elsewhere"),
    ):
        model = conv_net()
        model.graph.node[1].domain, model.graph.node[1].op_type = domain, op
        model.opset_import.append(helper.make_opsetid(domain, 1))
        refused(save(tmp_path, model), said)


def test_a_custom_operator_inside_a_branch(tmp_path: Path) -> None:
    out = helper.make_tensor_value_info("a", TensorProto.FLOAT, None)
    inner = helper.make_graph([helper.make_node("Magic", ["map"], ["a"], domain="my.ops")], "g", [], [out])
    model = conv_net()
    model.graph.node.insert(4, helper.make_node("If", ["yes"], ["c"], then_branch=inner, else_branch=inner))
    refused(save(tmp_path, model), "'Magic' of the domain 'my.ops'")


def test_weights_beside_the_file_are_read_and_those_elsewhere_refused(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    model = conv_net()
    inside = open_network(str(save(folder, model)))
    external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    path = folder / "split.onnx"
    onnx.save(model, str(path))
    path.with_suffix(".toml").write_text((folder / "net.toml").read_text())
    picture = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    split = open_network(str(path))
    np.testing.assert_array_equal(split.features(picture), inside.features(picture))
    data = bytearray((folder / "weights.bin").read_bytes())
    data[0] ^= 1
    (folder / "weights.bin").write_bytes(data)
    assert open_network(str(path)).sha256 != split.sha256, "the digest covers the weights"
    (folder / "weights.bin").write_bytes(data[:10])
    refused(path, "ends before the weights")
    (folder / "weights.bin").unlink()
    refused(path, "which is not there")

    (tmp_path / "secret").write_bytes(bytes(data))
    (folder / "weights.bin").symlink_to(tmp_path / "secret")
    refused(path, "not in the folder of the network: not allowed")
    for location in ("../secret", str(tmp_path / "secret"), "", "a\0b"):
        changed = onnx.load(str(path), load_external_data=False)
        for tensor in changed.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        (folder / "bad.onnx").write_bytes(changed.SerializeToString())
        refused(folder / "bad.onnx", "not allowed")


def varint(number: int) -> bytes:
    low = bytes(number >> 7 * i & 0x7F | 0x80 for i in range((max(number.bit_length(), 1) - 1) // 7))
    return low + bytes([number >> 7 * len(low)])


def inner(number: int, *parts: bytes) -> bytes:
    """A field that holds a message or a text."""
    return varint(number << 3 | 2) + varint(sum(map(len, parts))) + b"".join(parts)


def elsewhere(place: int, location: str = "../secret") -> bytes:
    """A tensor (12, 7) in another file; place : the varint that says so, of which readers take the lowest 32 bits."""
    tensor = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[12, 7])
    for key, value in {"location": location, "length": str(4 * 12 * 7)}.items():
        tensor.external_data.add(key=key, value=value)
    return bytes(tensor.SerializeToString()) + varint(14 << 3) + varint(place)


def with_function(*parts: bytes) -> bytes:
    """A network whose last operator is a function of the file: opset, inputs and outputs, and these fields."""
    model = conv_net(head="none")
    model.graph.node.append(helper.make_node("Secret", ["features"], ["seen"], domain="of.file"))
    model.graph.output[0].name = "seen"
    model.opset_import.append(helper.make_opsetid("of.file", 1))
    start = onnx.FunctionProto(name="Secret", domain="of.file", input=["x"], output=["y"])
    start.opset_import.append(helper.make_opsetid("", 17))
    product = inner(7, helper.make_node("MatMul", ["x", "k"], ["y"]).SerializeToString())
    return bytes(model.SerializeToString()) + inner(25, start.SerializeToString(), *parts, product)


def attribute(name: str, tensor: bytes) -> bytes:
    return inner(1, name.encode()) + varint(20 << 3) + varint(4) + inner(5, tensor)


def in_a_default(place: int, location: str) -> bytes:
    constant = onnx.NodeProto(op_type="Constant", output=["k"])
    constant.attribute.add(name="value", ref_attr_name="v", type=onnx.AttributeProto.TENSOR)
    default = inner(11, attribute("v", elsewhere(place, location)))
    return with_function(default, inner(7, constant.SerializeToString()))


def in_a_function(place: int, location: str) -> bytes:
    constant = onnx.NodeProto(op_type="Constant", output=["k"]).SerializeToString()
    return with_function(inner(7, constant, inner(5, attribute("value", elsewhere(place, location)))))


def in_sparse_weights(place: int, location: str) -> bytes:
    model = conv_net(head="none")
    model.graph.node.append(helper.make_node("MatMul", ["features", "k"], ["seen"]))
    model.graph.output[0].name = "seen"
    places = helper.make_tensor("places", TensorProto.INT64, [12 * 7], range(12 * 7)).SerializeToString()
    values = elsewhere(place, location).replace(bytes([8, 12, 8, 7]), bytes([8, 12 * 7]))
    sparse = inner(15, inner(1, values), inner(2, places), bytes([3 << 3, 12, 3 << 3, 7]))
    graph = inner(7, model.graph.SerializeToString(), sparse)
    model.ClearField("graph")
    return bytes(model.SerializeToString()) + graph


@pytest.mark.parametrize("place", [1, 0x1_0000_0001])
@pytest.mark.parametrize("make", [in_a_default, in_a_function, in_sparse_weights])
def test_no_tensor_anywhere_leads_out_of_the_folder(tmp_path: Path, make: Any, place: int) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    data = np.arange(12 * 7, dtype=np.float32).tobytes()
    (tmp_path / "secret").write_bytes(data)
    path = folder / "net.onnx"
    path.with_suffix(".toml").write_text("size = 16\nlayer = 'seen'")
    path.write_bytes(make(place, "../secret"))
    refused(path, "not in the folder of the network: not allowed")
    (folder / "weights").write_bytes(data)
    path.write_bytes(make(place, "weights"))
    pruned = NetworkGraph(read_onnx(path)).pruned(["seen"])
    assert data in pruned, "what lies in the folder is read"
    assert b"location" not in pruned, "and ONNX Runtime sees the name of no file"
    assert open_network(str(path)).n_features == 7


def test_class_names_lie_in_the_folder_of_the_network(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (tmp_path / "secret").write_text("\n".join("abcdefg"))
    (folder / "link").symlink_to("../secret")
    (folder / "names").write_text("\n".join("abcdefg"))
    path = save(folder, conv_net())
    table = path.with_suffix(".toml").read_text()
    for labels in ("../secret", str(tmp_path / "secret"), "link", "./x/../../secret", r"a\u0000b"):
        path.with_suffix(".toml").write_text(f'{table}labels = "{labels}"')
        refused(path, "has its class names in the file .* not in the folder of the network: not allowed")
    path.with_suffix(".toml").write_text(f'{table}labels = "./names"')
    assert open_network(str(path), Options(n_classes=1)).class_names == tuple("abcdefg")


def test_a_file_of_weights_with_many_spellings_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And all files of weights together are bounded."""
    model = conv_net()
    onnx.save(model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="weights", size_threshold=0)
    model = onnx.load(str(tmp_path / "net.onnx"), load_external_data=False)
    for i, tensor in enumerate(model.graph.initializer):
        (entry,) = (entry for entry in tensor.external_data if entry.key == "location")
        entry.value = "./" * i + "weights"
    path = save(tmp_path, model)
    n_bytes = (tmp_path / "weights").stat().st_size
    monkeypatch.setattr(weight_files, "MOST_BYTES", n_bytes + path.stat().st_size)
    assert open_network(str(path)).n_features == 12
    tensor = model.graph.initializer[0]
    (entry,) = (entry for entry in tensor.external_data if entry.key == "location")
    entry.value = "copy"
    (tmp_path / "copy").write_bytes((tmp_path / "weights").read_bytes())
    refused(save(tmp_path, model), "are the most")


CYCLES = {
    "two makers": [("Identity", "pixels", "a"), ("Identity", "a", "b"), ("Identity", "b", "a")],
    "before the output": [("Relu", "pixels", "x"), ("Max", "b x", "a"), ("Relu", "a", "b")],
    "itself": [("Add", "pixels a", "a"), ("Relu", "a", "b")],
    "behind the products": [("Relu", "pixels", "x"), ("Add", "b x", "a"), ("Identity", "a", "b")],
}


@pytest.mark.parametrize("kind", CYCLES)
def test_a_cycle_is_refused(tmp_path: Path, kind: str) -> None:
    nodes = [helper.make_node(op, read.split(), [made]) for op, read, made in CYCLES[kind]]
    model = model_of(nodes, [picture_input("NCHW", "float32", 1, 16)], ["b"], [weights("w0", 8, 3)])
    said = "has two operators that make the tensor 'a'" if kind == "two makers" else "has a cycle: the tensor"
    refused(save(tmp_path, model), said)


def test_lists_of_numbers_are_bounded_as_fields_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv_net()
    model.graph.node[0].attribute.add(name="many", ints=[1] * 5000, type=onnx.AttributeProto.INTS)
    path = save(tmp_path, model)
    data = path.read_bytes()
    packed = inner(5, inner(1, b"many"), inner(8, b"\1" * 5000), varint(20 << 3), varint(7))
    node = model.graph.node[0]
    del node.attribute[-1]
    graph = inner(7, inner(1, node.SerializeToString(), packed))
    model.ClearField("graph")
    kinds = (data, model.SerializeToString() + graph)
    for kind in kinds:
        path.write_bytes(kind)
        read_onnx(path)
    monkeypatch.setattr(onnx_file, "_MOST_FIELDS", 4999)
    for kind in kinds:
        path.write_bytes(kind)
        with pytest.raises(ModelError, match="more than 4,999 fields"):
            read_onnx(path)


def test_a_network_that_does_not_fit_is_not_read(tmp_path: Path) -> None:
    path = save(tmp_path, conv_net())
    n_bytes = path.stat().st_size
    assert open_network(str(path), most_bytes=2 * n_bytes).n_features == 12
    with open(path, "ab") as file:
        file.truncate(1 << 30)  # a hole, which takes no room on the disk
    with pytest.raises(MemoryBudgetError, match=r"takes about .* the memory budget leaves") as caught:
        open_network(str(path), most_bytes=100 << 20)
    assert "\n" not in str(caught.value)
    model = conv_net()
    onnx.save(model, str(path), save_as_external_data=True, location="weights", size_threshold=0)
    n_bytes = path.stat().st_size + (tmp_path / "weights").stat().st_size
    assert open_network(str(path), most_bytes=2 * n_bytes).n_features == 12
    with pytest.raises(MemoryBudgetError, match=r"loading .*weights takes about"):
        open_network(str(path), most_bytes=2 * n_bytes - 1)


def test_names_that_are_compared_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def close(word: str, names: list[str], *others: Any) -> list[str]:
        compared.extend(map(len, [word, *names]))
        return []

    names = ["pixels", *("a" * (20 + 170 * (i % 2)) + f"{i:05d}" for i in range(3000))]
    nodes = [helper.make_node("Relu", [read], [made]) for read, made in pairwise(names)]
    model = model_of(nodes, [picture_input("NCHW", "float32", 1, 16)], names[-1:], [weights("w0", 8, 3)])
    graph = graph_of(tmp_path, model)
    monkeypatch.setattr("difflib.get_close_matches", close)
    for layer in ("b" * 20, "b" * 190):
        with pytest.raises(ModelError, match="computes no tensor"):
            graph.check(layer)
    assert 0 < len(compared) <= 1001
    assert max(compared) <= 100


def test_inputs_that_are_no_picture(tmp_path: Path) -> None:
    def network(*inputs: Any) -> Any:
        node = helper.make_node("Mul", [inputs[0].name, "w1"], ["y"])
        return model_of([node], list(inputs), ["y"], [weights("w1", 1)])

    text = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 77])
    refused(save(tmp_path, network(text)), r"has no image input: it must be .* and is input_ids \(1, 77\)")
    refused(
        save(tmp_path, network(text, picture_input("NCHW", "float32", 1, 16))),
        r"has 2 inputs \(input_ids, pixels\).*vision_model.onnx",
    )
    refused(save(tmp_path, network(picture_input("NCHW", "float32", 1, 16, 5))), "has no image input")
    refused(save(tmp_path, network(picture_input("NCHW", "float32", 8, 16))), "takes 8 pictures at once")


def test_a_network_without_weights(tmp_path: Path) -> None:
    model = conv_net()
    model.graph.input.extend(
        helper.make_tensor_value_info(c.name, TensorProto.FLOAT, list(c.dims)) for c in model.graph.initializer
    )
    del model.graph.initializer[:]
    refused(save(tmp_path, model), "has no weights")


def test_a_graph_that_onnx_runtime_refuses(tmp_path: Path) -> None:
    model = conv_net()
    model.graph.node[0].op_type = "NoSuchOperator"
    refused(save(tmp_path, model), "cannot be loaded; ONNX Runtime says")


def test_a_network_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PATIENCE_SECONDS", 0.2)
    refused(save(tmp_path, endless_net(), table=ENDLESS_TABLE), r"takes more than 0.2 s for one picture")


def test_integers_are_no_features(tmp_path: Path) -> None:
    model = conv_net()
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["best"], axis=1))
    refused(save(tmp_path, model, table="size = 16\nlayer = 'best'"), "does not hold floats")


def test_nothing_says_how_pictures_are_scaled(tmp_path: Path) -> None:
    refused(save(tmp_path, conv_net(), table=""), "nothing says how pictures are scaled .*write .*net.toml")


@settings(max_examples=150)
@given(st.data())
def test_damage_of_any_kind_is_one_line_or_a_network(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    """Whatever bytes change, reading ends in a network or in a ModelError, and never in another exception."""
    whole = bytearray(DAMAGED)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    path.write_bytes(whole)
    with contextlib.suppress(ModelError):
        NetworkGraph(read_onnx(path)).choose()


DAMAGED = with_outputs(conv_net(), "probabilities").SerializeToString()
