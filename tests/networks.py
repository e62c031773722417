"""Tiny ONNX networks, built with the onnx package: all layouts of input, with and without a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DTYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "float16": TensorProto.FLOAT16}
TABLE = "size = {size}\nmean = [127.5, 120.0, 110.0]\nstd = [127.5, 60.0, 50.0]\n"


def weights(name: str, *shape: int, seed: int = 0) -> Any:
    rng = np.random.default_rng([seed, *name.encode()])
    return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), name)


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[str], constants: list[Any], **options: Any) -> Any:
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "net", inputs, declared, constants)
    opsets = options.pop("opsets", [helper.make_opsetid("", 17)])
    return helper.make_model(graph, opset_imports=opsets, ir_version=options.pop("ir_version", 8), **options)


def picture_input(layout: str, dtype: str, batch: Any, size: Any, channels: Any = 3) -> Any:
    height, width = (size, size) if not isinstance(size, tuple) else (size[1], size[0])
    shape = [batch, channels, height, width] if layout == "NCHW" else [batch, height, width, channels]
    return helper.make_tensor_value_info("pixels", DTYPES[dtype], shape)


def conv_net(
    *,
    layout: str = "NCHW",
    dtype: str = "float32",
    batch: Any = 1,
    size: Any = 16,
    head: str = "product",
    channels: int = 3,
    ir_version: int = 8,
) -> Any:
    """Two convolutions, an average, a classifier and a softmax. head : product, convolution, or none."""
    nodes, name = [], "pixels"
    if dtype != "float32":
        nodes.append(helper.make_node("Cast", [name], ["cast"], to=TensorProto.FLOAT))
        name = "cast"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [name], ["planes"], perm=[0, 3, 1, 2]))
        name = "planes"
    nodes += [
        helper.make_node("Conv", [name, "w1"], ["conv1"], strides=[2, 2], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "w2"], ["conv2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv2"], ["map"]),
    ]
    constants = [weights("w1", 8, channels, 3, 3), weights("w2", 12, 8, 3, 3)]
    if head == "convolution":
        nodes += [
            helper.make_node("Conv", ["map", "w3"], ["scores"], kernel_shape=[1, 1]),
            helper.make_node("GlobalAveragePool", ["scores"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ]
        constants.append(weights("w3", 7, 12, 1, 1))
    else:
        nodes += [
            helper.make_node("GlobalAveragePool", ["map"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["features"]),
        ]
    last = "features"
    if head == "product":
        nodes.append(helper.make_node("Gemm", ["features", "w3", "b3"], ["logits"], transB=1))
        constants += [weights("w3", 7, 12), weights("b3", 7)]
    if head != "none":
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
        last = "probabilities"
    inputs = [picture_input(layout, dtype, batch, size, channels)]
    if ir_version < 4:  # as old files do
        inputs += [helper.make_tensor_value_info(c.name, TensorProto.FLOAT, list(c.dims)) for c in constants]
    return model_of(nodes, inputs, [last], constants, ir_version=ir_version)


def transformer(*, size: Any = 16, prefix: int = 1, width: int = 16, batch: Any = "batch") -> Any:
    """Patches of 4x4 pixels, `prefix` tokens before them, one block of attention, and a norm: (n, tokens, width)."""
    constants = [
        weights("patch", width, 3, 4, 4),
        weights("q", width, width),
        weights("k", width, width),
        weights("v", width, width),
        weights("up", width, 4 * width),
        weights("down", 4 * width, width),
        numpy_helper.from_array(np.ones(width, np.float32), "scale"),
        numpy_helper.from_array(np.array([0, width, -1], np.int64), "flat"),
    ]
    nodes = [
        helper.make_node("Conv", ["pixels", "patch"], ["patches"], strides=[4, 4], kernel_shape=[4, 4]),
        helper.make_node("Reshape", ["patches", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["tokens0"], perm=[0, 2, 1]),
    ]
    name = "tokens0"
    if prefix:
        constants.append(weights("class", 1, prefix, width))
        nodes.append(helper.make_node("Concat", ["class", name], ["tokens1"], axis=1))
        name = "tokens1"
    nodes += [
        helper.make_node("LayerNormalization", [name, "scale"], ["norm1"]),
        helper.make_node("MatMul", ["norm1", "q"], ["queries"]),
        helper.make_node("MatMul", ["norm1", "k"], ["keys"]),
        helper.make_node("MatMul", ["norm1", "v"], ["values"]),
        helper.make_node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["queries", "turned"], ["products"]),
        helper.make_node("Softmax", ["products"], ["attention"], axis=-1),
        helper.make_node("MatMul", ["attention", "values"], ["attended"]),
        helper.make_node("Add", [name, "attended"], ["mixed"]),
        helper.make_node("MatMul", ["mixed", "up"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "down"], ["narrow"]),
        helper.make_node("Add", ["mixed", "narrow"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "scale"], ["last_hidden_state"]),
    ]
    return model_of(nodes, [picture_input("NCHW", "float32", batch, size)], ["last_hidden_state"], constants)


def save(folder: Path, model: Any, *, name: str = "net", table: str | None = None, size: int = 16) -> Path:
    """Write a network, with a table beside it (the usual one where none is given; none where it is empty)."""
    path = folder / f"{name}.onnx"
    path.write_bytes(model.SerializeToString())
    table = TABLE.format(size=size) if table is None else table
    if table:
        path.with_suffix(".toml").write_text(table)
    return path


def with_outputs(model: Any, *names: str) -> Any:
    """The same network with other outputs, as the onnx package makes it."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return changed


ENDLESS_TABLE = "size = 16\nlayer = 'looped'"


def endless_net() -> Any:
    """A network whose tensor `looped` takes some hundred years."""
    declared = [
        helper.make_tensor_value_info("turn", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
    ]
    made = [
        helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    inner = [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Neg", ["x"], ["y"])]
    model = conv_net()
    loop = helper.make_node(
        "Loop", ["turns", "yes", "map"], ["looped"], body=helper.make_graph(inner, "g", declared, made)
    )
    model.graph.node.insert(4, loop)
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "turns"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    return model
