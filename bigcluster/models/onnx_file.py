"""Reads an ONNX file from a stranger: its graph as nodes, weights, inputs and outputs; and refuses what is not safe.

A network is code that computes. Refused are operators of unknown domains, which a library of native code would have to
bring along; operators that load such code themselves; weights in files outside of the folder of the network; and files
larger than a protocol buffer can be. What is allowed has no access to files: weights that lie beside the network are
read here, and ONNX Runtime is given bytes alone.

Source of the numbers of fields: onnx.proto of ONNX 1.23.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bigcluster.errors import MemoryBudgetError, ModelError
from bigcluster.files.bounded import UnfitFileError, open_regular
from bigcluster.models.beside import path_beside
from bigcluster.models.protobuf import (
    Field,
    Pieces,
    Value,
    WireError,
    as_enum,
    as_number,
    as_text,
    as_view,
    bytes_field,
    message_field,
    read_fields,
    read_numbers,
)
from bigcluster.units import quoted, show_bytes

MOST_BYTES = 2**31 - 1
"""Bytes of a network with all of its weights, at most: what one protocol buffer can hold."""
_COPIES = 2
"""Copies of a file in memory while it is loaded, at least: its bytes, and those that ONNX Runtime is given."""
_MOST_NODES = 100_000
"""Nodes of a network, at most. A large transformer has some thousand."""
_MOST_FIELDS = 5_000_000
"""Fields that are looked at, at most: reading them takes some seconds."""
_MOST_DEPTH = 8
"""Graphs within each other, at most, as in the branches of an If. Real ones are two deep."""
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Domains whose operators ONNX Runtime has itself."""
_LOADING_OPERATORS = ("EPContext", "PythonOp", "PythonOpGrad", "Snpe")
"""Operators of ONNX Runtime whose code or data comes from elsewhere."""
_EXTERNAL = 1
"""The data_location of a tensor whose data lies in another file."""
_LEARNED = (1, 2, 3, 10, 11, 16, *range(17, 24))
"""Element types of weights: floats of any size, 8 bits and less. Sizes and axes are int32 and int64."""
_GRAPH, _OPSETS, _FUNCTIONS = 7, 8, 25
"""Fields of ModelProto; field 1 is the version of the format."""
_OF_FUNCTION = (1, 4, 5, 6, 8, 9, 10, 13)
"""Fields of FunctionProto that are kept as they are: all but its nodes, its defaults and what is only told."""
_OF_NODE = (1, 2, 3, 4, 6, 7, 8, 9)
_OF_ATTRIBUTE = (1, 2, 3, 4, 7, 8, 9, 13, 14, 15, 20, 21)
_OF_TENSOR = tuple(range(1, 13))
"""The same of NodeProto, AttributeProto and TensorProto. No field names a file: 13 and 14 of a tensor do."""


_Owner = tuple[str, str] | None
"""(domain, name) of a function; None for the graph, and for an operator of ONNX Runtime."""


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


def read_onnx(path: Path, most_bytes: int | None = None) -> OnnxFile:
    """Read an ONNX file. Raises ModelError, in one line, for everything that is wrong with it.

    most_bytes : memory that it may take; None for any. Raises MemoryBudgetError, before a byte is read, where that is
    too little for the file, and for the weights beside it.
    """
    try:
        data = _read(path, MOST_BYTES, most_bytes)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not data:
        raise ModelError(f"{path} is empty; copy or download it again")
    reader = _Reader(path, data, most_bytes)
    try:
        return reader.read()
    except (WireError, RecursionError) as error:
        raise ModelError(f"{path} is no ONNX file, or is cut or damaged: {error}{_looks_like(data)}") from error


def _read(path: Path, limit_bytes: int, room_bytes: int | None, n_bytes_before: int = 0) -> bytes:
    with open_regular(path, follow=True) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > limit_bytes:
            raise UnfitFileError(errno.EFBIG, f"it has {show_bytes(n_bytes)}, {show_bytes(limit_bytes)} are the most")
        n_needed = _COPIES * (n_bytes_before + n_bytes)
        if room_bytes is not None and n_needed > room_bytes:
            raise MemoryBudgetError(
                f"loading {path} takes about {show_bytes(n_needed)}, the memory budget leaves "
                f"{show_bytes(room_bytes)}; use a larger --memory or a smaller network"
            )
        return file.read(n_bytes)


def _unreadable(path: Path, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError(f"there is no network {path}")
    return ModelError(f"{path} cannot be read: {error.strerror or error}")


def _looks_like(data: bytes) -> str:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "; it is a web page"
    if start.startswith(b"version https://git-lfs"):
        return "; it is a pointer of Git LFS, fetch the file itself"
    if start.startswith((b"pk\x03\x04", b"\x80\x02", b"\x80\x03")):
        return "; it looks like weights of PyTorch: export the network to ONNX"
    return ""


class _Reader:
    """Reads one file, and counts what it reads."""

    def __init__(self, path: Path, data: bytes, most_bytes: int | None) -> None:
        self._path, self._data, self._most_bytes = path, memoryview(data), most_bytes
        self._n_fields = self._n_nodes = 0
        self._n_external_bytes = 0
        self._n_bytes_beside = 0
        self._files: dict[str, memoryview] = {}
        """Path in the folder -> content of the files that hold weights. A file with many spellings is read once."""
        self._functions: set[tuple[str, str]] = set()
        """(domain, name) of the operators that the file defines itself."""
        self._calls: dict[_Owner, Counter[_Owner]] = defaultdict(Counter)
        """The operators of each function, and of the graph under None: those of ONNX Runtime count under None."""
        self._owner: _Owner = None
        """The function that is read; None for the graph."""

    def read(self) -> OnnxFile:
        ir_version, others = 0, Pieces()
        graphs, functions = list[memoryview](), list[memoryview]()
        for number, value, whole in self._fields(self._data):
            if number == 1:
                ir_version = as_number(value)
            elif number == _GRAPH:
                graphs.append(as_view(value))
                continue
            elif number == _FUNCTIONS:
                functions.append(as_view(value))
            if number in (1, _OPSETS):
                others.append(whole)
        if not ir_version or len(graphs) != 1:
            raise WireError("it has no version, or no graph")
        self._functions = {self._name_of_function(function) for function in functions}
        for function in functions:
            others += message_field(_FUNCTIONS, self._function(function))
        self._owner = None
        graph = self._graph(graphs[0], 0)
        # ONNX Runtime puts the nodes of a function in the place of each call: twenty that call each other twice make
        # a million.
        if self._n_expanded(None, {}) > _MOST_NODES:
            raise ModelError(f"{self._path} has functions that make more than {_MOST_NODES:,} nodes: not allowed")
        return OnnxFile(self._path, self._digest(), len(self._data) + self._n_external_bytes, ir_version, graph, others)

    def _fields(self, message: memoryview) -> Iterator[Field]:
        for found in read_fields(message):
            self._count_field()
            yield found

    def _numbers(self, value: Value) -> Iterator[int]:
        for number in read_numbers(value):
            self._count_field()
            yield number

    def _count_field(self) -> None:
        self._n_fields += 1
        if self._n_fields > _MOST_FIELDS:
            raise ModelError(f"{self._path} has more than {_MOST_FIELDS:,} fields, more than a network can need")

    def _n_expanded(self, owner: _Owner, known: dict[_Owner, int]) -> int:
        """Return the nodes of a function, or of the graph, with those of all that it calls; a large number is cut."""
        if owner not in known:
            known[owner] = 0  # a function that calls itself: ONNX Runtime refuses it
            calls = self._calls[owner].items()
            n_nodes = sum(times * (1 if called is None else self._n_expanded(called, known)) for called, times in calls)
            known[owner] = min(n_nodes, _MOST_NODES + 1)
        return known[owner]

    def _function(self, message: memoryview) -> Pieces:
        """Return the fields of a function. Its nodes, and the defaults of its attributes, may hold tensors."""
        self._owner = self._name_of_function(message)
        pieces: Pieces = []
        for number, value, whole in self._fields(message):
            if number == 7:
                pieces += message_field(number, self._node(as_view(value), 1).message)
            elif number == 11:
                pieces += message_field(number, self._attribute(as_view(value), 1)[-1])
            elif number in _OF_FUNCTION:
                pieces.append(whole)
        return pieces

    def _name_of_function(self, message: memoryview) -> tuple[str, str]:
        name = domain = ""
        for number, value, _ in self._fields(message):
            if number == 1:
                name = as_text(value)
            elif number == 10:
                domain = as_text(value)
        return domain, name

    def _graph(self, message: memoryview, depth: int) -> Graph:
        if depth > _MOST_DEPTH:
            raise ModelError(f"{self._path} has graphs nested more than {_MOST_DEPTH} deep")
        graph, inputs = Graph(), list[ValueInfo]()
        for number, value, _ in self._fields(message):
            if number == 1:
                graph.nodes.append(self._node(as_view(value), depth))
            elif number == 5:
                tensor = self._tensor(as_view(value))
                graph.weights[tensor.name] = tensor
            elif number == 11:
                inputs.append(self._value_info(as_view(value)))
            elif number == 12:
                graph.outputs.append(self._value_info(as_view(value)))
            elif number == 15:
                graph.others += message_field(number, self._sparse(as_view(value)))
        for given in inputs:
            (graph.weight_inputs if given.name in graph.weights else graph.inputs).append(given)
        return graph

    def _node(self, message: memoryview, depth: int) -> Node:
        self._n_nodes += 1
        if self._n_nodes > _MOST_NODES:
            raise ModelError(f"{self._path} has more than {_MOST_NODES:,} nodes, more than a network can need")
        inputs, outputs, op, domain, n_constant_bytes = list[str](), list[str](), "", "", 0
        ints: dict[str, list[int]] = {}
        pieces: Pieces = []
        for number, value, whole in self._fields(message):
            if number == 1:
                inputs.append(as_text(value))
            elif number == 2:
                outputs.append(as_text(value))
            elif number == 4:
                op = as_text(value)
            elif number == 7:
                domain = as_text(value)
            elif number == 5:
                name, numbers, captured, n_bytes, attribute = self._attribute(as_view(value), depth)
                ints[name] = numbers
                inputs += captured
                n_constant_bytes += n_bytes
                pieces += message_field(5, attribute)
                continue
            if number in _OF_NODE:
                pieces.append(whole)
        if domain not in _DOMAINS and (domain, op) not in self._functions:
            raise ModelError(
                f"{self._path} needs the operator {quoted(op)} of the domain {quoted(domain)}, which is not one of "
                "ONNX Runtime's own: custom operators are native code, and are not loaded"
            )
        self._calls[self._owner][(domain, op) if (domain, op) in self._functions else None] += 1
        if op in _LOADING_OPERATORS:
            raise ModelError(f"{self._path} has an operator {op}, which loads code or data from elsewhere: not allowed")
        return Node(op, tuple(inputs), tuple(outputs), ints, n_constant_bytes, pieces)

    def _attribute(self, message: memoryview, depth: int) -> tuple[str, list[int], list[str], int, Pieces]:
        """Return name, whole numbers, tensors that inner graphs read from outside, bytes of constants, and fields."""
        name, numbers, captured, n_bytes = "", list[int](), list[str](), 0
        pieces: Pieces = []
        for number, value, whole in self._fields(message):
            if number in (5, 10):
                tensor = self._tensor(as_view(value))
                n_bytes += tensor.n_bytes
                pieces += message_field(number, tensor.message)
                continue
            if number in (6, 11):
                graph = self._graph(as_view(value), depth + 1)
                captured += _read_from_outside(graph)
                n_bytes += sum(tensor.n_bytes for tensor in graph.weights.values())
                pieces += message_field(number, graph_fields(graph, graph.outputs))
                continue
            if number in (22, 23):
                pieces += message_field(number, self._sparse(as_view(value)))
                n_bytes += len(as_view(value))
                continue
            if number == 1:
                name = as_text(value)
            elif number in (3, 8):
                numbers += self._numbers(value)
            elif number == 7 and not isinstance(value, int):
                n_bytes += len(value)
            if number in _OF_ATTRIBUTE:
                pieces.append(whole)
        return name, numbers, captured, n_bytes, pieces

    def _tensor(self, message: memoryview) -> Tensor:
        """Read a constant; data in another file comes into the message. Raises ModelError for such a file elsewhere."""
        name, shape, n_bytes, is_external, dtype = "", list[int](), 0, False, 0
        external: dict[str, str] = {}
        pieces: Pieces = []
        for number, value, whole in self._fields(message):
            if number == 13:
                key, text = self._pair(as_view(value))
                external[key] = text
                continue
            if number == 14:
                is_external = as_enum(value) == _EXTERNAL
                continue
            if number == 8:
                name = as_text(value)
            elif number == 1:
                shape += self._numbers(value)
            elif number == 2:
                dtype = as_enum(value)
            elif number in (4, 5, 6, 7, 9, 10, 11):
                n_bytes += 8 if isinstance(value, int) else len(value)
            if number in _OF_TENSOR:
                pieces.append(whole)
        if is_external:
            data = self._external(name, external)
            n_bytes = len(data)
            self._n_external_bytes += n_bytes
            if len(self._data) + self._n_external_bytes > MOST_BYTES:
                raise ModelError(f"{self._path} and its weights have more than {show_bytes(MOST_BYTES)}")
            pieces += bytes_field(9, data)
        return Tensor(name, tuple(shape), n_bytes if dtype in _LEARNED else 0, pieces)

    def _sparse(self, message: memoryview) -> Pieces:
        """Return the fields of a SparseTensorProto: its values, their places and its shape."""
        pieces: Pieces = []
        for number, value, whole in self._fields(message):
            if number in (1, 2):
                pieces += message_field(number, self._tensor(as_view(value)).message)
            elif number == 3:
                pieces.append(whole)
        return pieces

    def _pair(self, message: memoryview) -> tuple[str, str]:
        key = text = ""
        for number, value, _ in self._fields(message):
            if number == 1:
                key = as_text(value)
            elif number == 2:
                text = as_text(value)
        return key, text

    def _external(self, name: str, where: dict[str, str]) -> memoryview:
        """Return the data of a tensor from a file in the folder of the network."""
        location = where.get("location", "")
        target = path_beside(self._path, location)
        if target is None:
            raise ModelError(
                f"{self._path} has the weights {quoted(name)} in the file {quoted(location)}, which is not in the "
                "folder of the network: not allowed"
            )
        key = os.path.relpath(target, os.path.realpath(self._path.parent))
        if key not in self._files:
            try:
                self._files[key] = memoryview(self._read_beside(target))
            except FileNotFoundError as error:
                raise ModelError(
                    f"{self._path} has its weights in the file {quoted(location)}, which is not there; put it beside"
                ) from error
            except OSError as error:
                raise _unreadable(target, error) from error
        content = self._files[key]
        try:
            start = int(where.get("offset", "0"))
            n_bytes = int(where.get("length", len(content) - start))
        except ValueError as error:
            raise WireError("the place of its weights in another file is no number") from error
        if start < 0 or n_bytes < 0 or start + n_bytes > len(content):
            raise ModelError(f"{target} ends before the weights {quoted(name)} of {self._path.name}: it is cut")
        return content[start : start + n_bytes]

    def _read_beside(self, target: Path) -> bytes:
        data = _read(
            target, MOST_BYTES - self._n_bytes_beside, self._most_bytes, len(self._data) + self._n_bytes_beside
        )
        self._n_bytes_beside += len(data)
        return data

    def _value_info(self, message: memoryview) -> ValueInfo:
        name, dtype, shape = "", 0, None
        for number, value, _ in self._fields(message):
            if number == 1:
                name = as_text(value)
            elif number == 2:
                for kind, tensor_type, _ in self._fields(as_view(value)):
                    if kind != 1:
                        continue
                    for key, inner, _ in self._fields(as_view(tensor_type)):
                        if key == 1:
                            dtype = as_enum(inner)
                        elif key == 2:
                            shape = tuple(
                                self._size(as_view(size)) for at, size, _ in self._fields(as_view(inner)) if at == 1
                            )
        return ValueInfo(name, dtype, shape, message)

    def _size(self, message: memoryview) -> int | None:
        sizes = [as_number(value) for number, value, _ in self._fields(message) if number == 1]
        return sizes[-1] if sizes and sizes[-1] > 0 else None

    def _digest(self) -> str:
        whole = hashlib.sha256(self._data)
        if not self._files:
            return whole.hexdigest()
        digests = [whole.hexdigest()]
        digests += [f"{name}:{hashlib.sha256(self._files[name]).hexdigest()}" for name in sorted(self._files)]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _read_from_outside(graph: Graph) -> list[str]:
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
