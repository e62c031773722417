"""This module finds the image input of a network, its tensors, and the tensor whose values become features.

The default tensor is the input of the last matrix product, the classifier, because it describes a picture before it is
reduced to the classes of the training. Without a classifier, the default is the output of the network, and never a
softmax. Nodes that the chosen tensors do not need are removed, so they are neither loaded nor computed.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from bigcluster.errors import ModelError
from bigcluster.models.onnx_graph import Graph, Node, OnnxFile, ValueInfo, graph_fields
from bigcluster.models.protobuf import bytes_field, join, message_field
from bigcluster.units import counted, quoted

_DTYPES = {1: "float32", 2: "uint8", 10: "float16"}
"""Element types of an image input, by their numbers in ONNX."""
_SOFTMAX = ("Softmax", "LogSoftmax")
"""Operators that make probabilities from scores."""
_AFTER_PRODUCT = (
    *_SOFTMAX,
    *("Sigmoid", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Clip"),
    *("Add", "Sub", "Mul", "Div", "QuantizeLinear", "DequantizeLinear"),
)
"""Operators that may stand between the classifier and the output."""
_AFTER_CONVOLUTION = (*_AFTER_PRODUCT, "Relu", "GlobalAveragePool", "AveragePool", "ReduceMean")
"""Operators that may stand between a classifier that is a convolution and the output."""
_PRODUCTS = (
    *("Gemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "QGemm", "MatMulNBits"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
)
"""Operators of ONNX and ONNX Runtime that are matrix products."""
_CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
"""Operators of ONNX that are convolutions."""
_QUANTIZED = ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear")
"""Operators that change only how values are stored."""
_CHANNELS_FIRST = (*_CONVOLUTIONS, "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
"""Operators of ONNX whose maps are (n, channels, height, width)."""
_TO_CHANNELS_LAST = [0, 2, 3, 1]
_TO_CHANNELS_FIRST = [0, 3, 1, 2]
"""Permutations of the axes of a map, from NCHW to NHWC and back."""
_LEAST_PATCH = 4
"""Pixels: a first convolution without overlap and with at least this stride cuts a picture into patches."""
_SHOWN_NAMES = 5
"""Names that a message shows, at most. Chosen, not measured."""
_COMPARED_NAMES = 1000
"""Names with which a wrong name is compared, at most: the last ones, since features come from a late layer."""
_COMPARED_CHARACTERS = 100
"""Characters of a name that is compared, at most: a comparison of long similar names takes a millisecond."""
_WEIGHTS_NEED_NO_INPUT = 4
"""The version of the format since which weights need not be inputs. Source: ONNX, docs/IR.md."""


@dataclass(frozen=True)
class ImageInput:
    """The input of a network that takes a picture."""

    name: str
    dtype: str
    """float32, float16 or uint8."""
    layout: str
    """NCHW or NHWC."""
    is_layout_known: bool
    """Whether the file has the layout. Otherwise NCHW is assumed."""
    channels: int | None
    """1 or 3; None where the file does not say it."""
    height: int | None
    width: int | None
    """In pixels, as is `height`; None where any size is allowed."""

    def shape(self, height: int, width: int, layout: str) -> tuple[int, int, int, int]:
        """Return the shape of a batch of one picture. layout : NCHW or NHWC, which may come from the table beside."""
        n_channels = self.channels or 3
        return (1, n_channels, height, width) if layout == "NCHW" else (1, height, width, n_channels)


@dataclass(frozen=True)
class Chosen:
    """The tensors of a network that are computed."""

    layer: str
    """The tensor whose values become features."""
    why: str
    """Why this tensor was chosen, as text for the user."""
    logits: str | None
    """The scores of the classes before a softmax; None where the network has no classifier."""


class NetworkGraph:
    """The graph of a network that was read from a file."""

    def __init__(self, file: OnnxFile) -> None:
        """Raises ModelError for a network without weights, or whose inputs are not one picture."""
        self.file = file
        graph = file.graph
        n_bytes = sum(weights.n_bytes for weights in graph.weights.values())
        if not n_bytes + sum(node.n_constant_bytes for node in graph.nodes):
            raise ModelError(f"{file.path} has no weights: it is a graph alone; export the network with its weights")
        self.input = _image_input(file)
        self._producers = _producers(file)
        self._channels_axes: dict[str, int] = {}
        """The results of `channels_axis` by the name of the tensor."""
        self.tensors: list[str] = []
        """The names of all tensors that depend on the picture, in the order in which they are computed."""
        known = {self.input.name}
        for node in graph.nodes:
            if any(name in known for name in node.inputs):
                new = [name for name in node.outputs if name and name not in known]
                self.tensors += new
                known.update(new)
        self._of_picture = known

    def check(self, layer: str) -> str:
        """Return the name of a tensor. Raises ModelError, with similar names, where the network has no such tensor."""
        if layer in self.tensors:
            return layer
        near = list[str]()
        if len(layer) <= _COMPARED_CHARACTERS:
            compared = [name for name in self.tensors if len(name) <= _COMPARED_CHARACTERS][-_COMPARED_NAMES:]
            near = difflib.get_close_matches(layer, compared, _SHOWN_NAMES, 0.5)
        near = near or [name for name in self.tensors if layer.lower() in name.lower()][:_SHOWN_NAMES]
        names = f"; near are {', '.join(map(quoted, near))}" if near else ""
        raise ModelError(
            f"{self.file.path} computes no tensor {quoted(layer)} from the picture{names}; "
            f"`bigcluster models show {self.file.path}` lists all"
        )

    def choose(self, layer: str | None = None, *, head: str = "product") -> Chosen:
        """Choose the tensors that are computed.

        layer : the name of a tensor, or None for the default one. head : "product" or "convolution", the kind of the
        classifier. The graph does not show the latter, so the table of the network has to say it.
        Raises ModelError for an unknown layer.
        """
        default = self._default(head)
        if layer is None:
            return default
        return Chosen(self.check(layer), "it was asked for", default.logits)

    def _default(self, head: str) -> Chosen:
        output = next((value.name for value in self.file.graph.outputs if value.name in self._of_picture), None)
        if output is None or output == self.input.name:
            raise ModelError(f"{self.file.path} has no output that depends on its picture")
        last, logits = output, output
        passed: tuple[str, ...] = _AFTER_PRODUCT
        ends: tuple[str, ...] = _PRODUCTS
        if head == "convolution":
            passed, ends = _AFTER_CONVOLUTION, _CONVOLUTIONS
        while (node := self._producers.get(last)) is not None and node.op in passed:
            before = self._inputs_of_picture(node)
            if len(before) != 1:
                break
            last = before[0]
            if node.op in _SOFTMAX:
                logits = last
        if node is not None and node.op in ends:
            before = self._inputs_of_picture(node)
            if len(before) == 1 and before[0] != self.input.name:
                what = "matrix product" if head == "product" else "convolution"
                return Chosen(self._before_quantizing(before[0]), f"it goes into the last {what}", logits)
        if logits != output:
            return Chosen(logits, "it goes into the softmax, and no matrix product stands before it", None)
        return Chosen(output, "it is the output, and no matrix product makes it", None)

    def _inputs_of_picture(self, node: Node) -> list[str]:
        return [name for name in dict.fromkeys(node.inputs) if name in self._of_picture]

    def _before_quantizing(self, name: str) -> str:
        while (node := self._producers.get(name)) is not None and node.op in _QUANTIZED:
            before = self._inputs_of_picture(node)
            if len(before) != 1:
                break
            name = before[0]
        return name

    def operator_of(self, name: str) -> str:
        """Return the operator that computes a tensor."""
        return self._producers[name].op

    def channels_axis(self, name: str) -> int:
        """Return the axis of the channels of a map with four axes: 1, or 3 after a transpose to channels last."""
        passed = list[str]()
        axis = None
        while axis is None and (axis := self._channels_axes.get(name)) is None:
            passed.append(name)
            node = self._producers.get(name)
            if node is None:
                axis = 1 if self.input.layout == "NCHW" else 3
            elif node.op in _CHANNELS_FIRST:
                axis = 1
            elif node.op == "Transpose" and node.ints.get("perm") in (_TO_CHANNELS_LAST, _TO_CHANNELS_FIRST):
                axis = 3 if node.ints["perm"] == _TO_CHANNELS_LAST else 1
            elif before := self._inputs_of_picture(node):
                name = before[0]
            else:
                axis = 1
        self._channels_axes.update(dict.fromkeys(passed, axis))
        return axis

    def n_patches(self, height: int, width: int) -> int | None:
        """Return the number of patches into which the first convolution cuts a picture; None without patches.

        height, width : those of the input in pixels.
        """
        for node in self.file.graph.nodes:
            if node.op not in _CONVOLUTIONS or not self._inputs_of_picture(node):
                continue
            kernel = node.ints.get("kernel_shape") or []
            weights = self.file.graph.weights.get("".join(node.inputs[1:2]))
            if not kernel and weights is not None:
                kernel = list(weights.shape[2:])
            strides = node.ints.get("strides") or [1, 1]
            if len(kernel) != 2 or strides != kernel or min(strides) < _LEAST_PATCH:
                return None
            return (height // strides[0]) * (width // strides[1])
        return None

    def pruned(self, outputs: list[str]) -> bytes:
        """Return the bytes of an ONNX file that computes only these tensors."""
        needed, nodes = set(outputs), list[Node]()
        for node in reversed(self.file.graph.nodes):
            if not needed.isdisjoint(node.outputs):
                nodes.append(node)
                needed.update(node.inputs)
        graph = self.file.graph
        # A caller may replace weights that are inputs, so they are no constants. Only old files need such inputs.
        is_old = self.file.ir_version < _WEIGHTS_NEED_NO_INPUT
        small = Graph(
            nodes[::-1],
            {name: weights for name, weights in graph.weights.items() if name in needed},
            graph.inputs,
            [value for value in graph.weight_inputs if is_old and value.name in needed],
            others=graph.others,
        )
        declared = [ValueInfo(name, 0, None, memoryview(join(bytes_field(1, name.encode())))) for name in outputs]
        return join([*self.file.others, *message_field(7, graph_fields(small, declared))])


def _producers(file: OnnxFile) -> dict[str, Node]:
    """Return the node that makes each tensor. Raises ModelError where two nodes make one, or nodes form a cycle."""
    nodes = file.graph.nodes
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in makers:
                raise ModelError(f"{file.path} has two operators that make the tensor {quoted(name)}: it is damaged")
            makers[name] = i
    # A node is removed after all nodes from which it reads. Nodes of a cycle wait for each other and remain.
    waits_for = [{makers[name] for name in node.inputs if name in makers} for node in nodes]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, makers_of in enumerate(waits_for):
        for maker in makers_of:
            readers[maker].append(i)
    n_awaited = [len(makers_of) for makers_of in waits_for]
    ready = [i for i, n in enumerate(n_awaited) if not n]
    n_left = len(nodes)
    while ready:
        n_left -= 1
        for reader in readers[ready.pop()]:
            n_awaited[reader] -= 1
            if not n_awaited[reader]:
                ready.append(reader)
    if n_left:
        name = next((name for i, n in enumerate(n_awaited) if n for name in nodes[i].outputs if name), "")
        raise ModelError(f"{file.path} has a cycle: the tensor {quoted(name)} waits for itself; export it again")
    return {name: nodes[i] for name, i in makers.items()}


def _image_input(file: OnnxFile) -> ImageInput:
    inputs = file.graph.inputs
    path: Path = file.path
    if len(inputs) > 1:
        names = ", ".join(value.name for value in inputs[:_SHOWN_NAMES])
        raise ModelError(
            f"{path} has {counted(len(inputs), 'input')} ({names}), and a picture is one: take the file of the image "
            "part alone, which is often called vision_model.onnx or image_encoder.onnx"
        )
    shown = "none" if not inputs else f"{inputs[0].name} {_shown(inputs[0].shape)}"
    needed = "(1, 3, height, width) or (1, height, width, 3) of float32, float16 or uint8"
    if not inputs or inputs[0].shape is None or len(inputs[0].shape) != 4 or inputs[0].dtype not in _DTYPES:
        raise ModelError(f"{path} has no image input: it must be {needed}, and is {shown}")
    image = inputs[0]
    assert image.shape is not None
    batch, second, third, last = image.shape
    if batch not in (1, None):
        raise ModelError(f"{path} takes {batch} pictures at once; export it with a batch of 1, or of any size")
    if second in (1, 3):
        layout, sizes, channels, is_known = "NCHW", (third, last), second, True
    elif last in (1, 3):
        layout, sizes, channels, is_known = "NHWC", (second, third), last, True
    elif second is None:
        layout, sizes, channels, is_known = "NCHW", (third, last), None, last is not None
    else:
        raise ModelError(f"{path} has no image input: it must be {needed}, and is {shown}")
    return ImageInput(image.name, _DTYPES[image.dtype], layout, is_known, channels, *sizes)


def _shown(shape: tuple[int | None, ...] | None) -> str:
    return "of an unknown shape" if shape is None else f"({', '.join(str(size or '?') for size in shape)})"
