"""An ONNX file that was read: its graph, weights, inputs and outputs, and how they are written again.

onnx_file.py makes these of the bytes of a file, graph.py chooses what is taken of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bigcluster.models.protobuf import Pieces, bytes_field, message_field


@dataclass(frozen=True)
class Tensor:
    """A constant of a network: its weights."""

    name: str
    shape: tuple[int, ...]
    n_bytes: int
    """Bytes of its data where they are learned numbers (floats and 8-bit integers); 0 for sizes and axes."""
    message: Pieces
    """The fields of its TensorProto, with all data inside."""


@dataclass(frozen=True)
class Node:
    """One operator of a graph."""

    op: str
    inputs: tuple[str, ...]
    """Names of the tensors that it reads, also those that its inner graphs read from outside."""
    outputs: tuple[str, ...]
    ints: dict[str, list[int]]
    """Its attributes that are whole numbers, such as strides or perm."""
    n_constant_bytes: int
    """Bytes of learned numbers in its attributes, as in a Constant."""
    message: Pieces


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a graph."""

    name: str
    dtype: int
    """The number of its element type in ONNX: 1 float32, 2 uint8, 10 float16; 0 where it is no tensor."""
    shape: tuple[int | None, ...] | None
    """None for a size that is free; the whole is None where nothing is known."""
    message: memoryview


@dataclass
class Graph:
    """What a network computes."""

    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[ValueInfo] = field(default_factory=list)
    """Inputs that are not weights."""
    weight_inputs: list[ValueInfo] = field(default_factory=list)
    """Weights that are listed as inputs too, as old files do."""
    outputs: list[ValueInfo] = field(default_factory=list)
    others: Pieces = field(default_factory=list)
    """Other fields that are kept: sparse weights, without any file that they name."""


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that is safe to run."""

    path: Path
    sha256: str
    """The SHA-256 of the file; where weights lie in other files, of the digests of all of them."""
    n_bytes: int
    """Bytes of the file and of the weights beside it."""
    ir_version: int
    graph: Graph
    others: Pieces
    """Other fields of the model that are kept: version, opsets, functions."""


def read_from_outside(graph: Graph) -> list[str]:
    """Return the tensors that an inner graph reads and does not make itself."""
    own = {*graph.weights, *(given.name for given in graph.inputs)}
    own.update(name for node in graph.nodes for name in node.outputs)
    read = [name for node in graph.nodes for name in node.inputs]
    read += [output.name for output in graph.outputs]
    return [name for name in dict.fromkeys(read) if name and name not in own]


def graph_fields(graph: Graph, outputs: list[ValueInfo]) -> Pieces:
    """Return the fields of a GraphProto."""
    pieces: Pieces = []
    for node in graph.nodes:
        pieces += message_field(1, node.message)
    pieces += bytes_field(2, b"graph")
    for tensor in graph.weights.values():
        pieces += message_field(5, tensor.message)
    for given in (*graph.inputs, *graph.weight_inputs):
        pieces += bytes_field(11, given.message)
    for output in outputs:
        pieces += bytes_field(12, output.message)
    return pieces + graph.others
