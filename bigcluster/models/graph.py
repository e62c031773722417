"""Finds what can be taken from a network: its image input, its inner tensors, and the one that describes a picture.

The default tensor is what goes into the last matrix product, the classifier: what the network knows of a picture before
it is pressed into the classes that it was trained for. A network without a classifier gives its output, and never a
softmax. What follows the tensors that are taken is pruned: it is neither loaded nor computed.
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
_AFTER_PRODUCT = (
    *_SOFTMAX,
    *("Sigmoid", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Clip"),
    *("Add", "Sub", "Mul", "Div", "QuantizeLinear", "DequantizeLinear"),
)
"""Operators that may stand between the classifier and the output."""
_AFTER_CONVOLUTION = (*_AFTER_PRODUCT, "Relu", "GlobalAveragePool", "AveragePool", "ReduceMean")
"""Operators that may stand behind a classifier that is a convolution."""
_PRODUCTS = (
    *("Gemm", "MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul", "QGemm", "MatMulNBits"),
    *("DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
)
_CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
_QUANTIZED = ("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear")
_CHANNELS_FIRST = (*_CONVOLUTIONS, "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool", "Resize")
"""Operators of ONNX whose maps are (n, channels, height, width)."""
_TO_CHANNELS_LAST = [0, 2, 3, 1]
_TO_CHANNELS_FIRST = [0, 3, 1, 2]
_LEAST_PATCH = 4
"""Pixels: a first convolution with a stride from here on, and without overlap, cuts a picture into patches."""
_SHOWN_NAMES = 5
"""Names that a message shows, at most."""
_COMPARED_NAMES = 1000
"""Names that a wrong one is compared with, at most: the last ones, from which a layer is taken as a rule."""
_COMPARED_CHARACTERS = 100
"""Characters of a name that is compared, at most: names that differ little take a millisecond each."""


@dataclass(frozen=True)
class ImageInput:
    """The input of a network that takes a picture."""

    name: str
    dtype: str
    """float32, float16 or uint8."""
    layout: str
    """NCHW or NHWC."""
    is_layout_known: bool
    """Whether the file says so; NCHW is assumed where it does not."""
    channels: int | None
    """1, 3, or None where the file does not say."""
    height: int | None
    width: int | None
    """Pixels; None where any size may come."""

    def shape(self, height: int, width: int, layout: str) -> tuple[int, int, int, int]:
        """Return the shape of a batch of one picture. layout : NCHW or NHWC, which may come from the table beside."""
        n_channels = self.channels or 3
        return (1, n_channels, height, width) if layout == "NCHW" else (1, height, width, n_channels)


@dataclass(frozen=True)
class Chosen:
    """The tensors that are taken from a network."""

    layer: str
    """The tensor that describes a picture."""
    why: str
    """Why this one, in words."""
    logits: str | None
    """The scores of the classes before a softmax; None where the network has no classifier."""


class NetworkGraph:
    """A network that was read and can be taken apart."""

    def __init__(self, file: OnnxFile) -> None:
        """Raises ModelError for a network without weights, or without exactly one input, which takes a picture."""
        self.file = file
        graph = file.graph
        n_bytes = sum(weights.n_bytes for weights in graph.weights.values())
        if not n_bytes + sum(node.n_constant_bytes for node in graph.nodes):
            raise ModelError(f"{file.path} has no weights: it is a graph alone; export the network with its weights")
        self.input = _image_input(file)
        self._producers = _producers(file)
        self._channels_axes: dict[str, int] = {}
        """What `channels_axis` found before."""
        self.tensors: list[str] = []
        """The names of all tensors that depend on the picture, in the order in which they are computed."""
        known = {self.input.name}
        for node in graph.nodes:
            if any(name in known for name in node.inputs):
                made = [name for name in node.outputs if name and name not in known]
                self.tensors += made
                known.update(made)
        self._of_picture = known

    def check(self, layer: str) -> str:
        """Return the name of a tensor. Raises ModelError, with the nearest names, where there is none."""
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
        """Choose the tensors that are taken.

        layer : the name of a tensor, or None for the default one. head : "product" or "convolution", the kind of the
        classifier; only somebody who knows the network can say the latter.
        Raises ModelError for an unknown layer.
        """
        default = self._default(head)
        if layer is None:
            return default
        return Chosen(self.check(layer), "it was asked for", default.logits)

    def _default(self, head: str) -> Chosen:
        output = next((given.name for given in self.file.graph.outputs if given.name in self._of_picture), None)
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
        """Return the axis of the channels of a map (n, ., ., .): 1, or 3 behind a transpose to channels last."""
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
        """Return the number of patches into which the first convolution cuts a picture; None where it cuts none."""
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
        """Return the network as an ONNX file that computes these tensors alone."""
        wanted, kept = set(outputs), list[Node]()
        for node in reversed(self.file.graph.nodes):
            if not wanted.isdisjoint(node.outputs):
                kept.append(node)
                wanted.update(node.inputs)
        graph = self.file.graph
        # Weights that are inputs too can be replaced by a caller and are no constants: only old files need them there.
        is_old = self.file.ir_version < _WEIGHTS_NEED_NO_INPUT
        small = Graph(
            kept[::-1],
            {name: weights for name, weights in graph.weights.items() if name in wanted},
            graph.inputs,
            [given for given in graph.weight_inputs if is_old and given.name in wanted],
            others=graph.others,
        )
        declared = [ValueInfo(name, 0, None, memoryview(join(bytes_field(1, name.encode())))) for name in outputs]
        return join([*self.file.others, *message_field(7, graph_fields(small, declared))])


_WEIGHTS_NEED_NO_INPUT = 4
"""Version of the format from which on weights need not be inputs. Source: ONNX, docs/IR.md."""


def _producers(file: OnnxFile) -> dict[str, Node]:
    """Return which node makes each tensor. Raises ModelError where two make one, or one is made from itself."""
    nodes = file.graph.nodes
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in makers:
                raise ModelError(f"{file.path} has two operators that make the tensor {quoted(name)}: it is damaged")
            makers[name] = i
    # Nodes leave one by one, each after all that it reads from. Those of a cycle wait for each other and stay.
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
        names = ", ".join(given.name for given in inputs[:_SHOWN_NAMES])
        raise ModelError(
            f"{path} has {counted(len(inputs), 'input')} ({names}), and a picture is one: take the file of the image "
            "part alone, which is often called vision_model.onnx or image_encoder.onnx"
        )
    shown = "none" if not inputs else f"{inputs[0].name} {_shown(inputs[0].shape)}"
    needed = "(1, 3, height, width) or (1, height, width, 3) of float32, float16 or uint8"
    if not inputs or inputs[0].shape is None or len(inputs[0].shape) != 4 or inputs[0].dtype not in _DTYPES:
        raise ModelError(f"{path} has no image input: it must be {needed}, and is {shown}")
    given = inputs[0]
    assert given.shape is not None
    batch, second, third, last = given.shape
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
    return ImageInput(given.name, _DTYPES[given.dtype], layout, is_known, channels, *sizes)


def _shown(shape: tuple[int | None, ...] | None) -> str:
    return "of an unknown shape" if shape is None else f"({', '.join(str(size or '?') for size in shape)})"
