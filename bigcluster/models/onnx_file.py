"""Reads an ONNX file from a stranger: its graph as nodes, weights, inputs and outputs; and refuses what is not safe.

A network is code that computes. Refused are operators of unknown domains, which a library of native code would have to
bring along; operators that load such code themselves; weights in files outside of the folder of the network; and files
larger than a protocol buffer can be. What is allowed has no access to files: weights that lie beside the network are
read here, and ONNX Runtime is given bytes alone.

Source of the numbers of fields: onnx.proto of ONNX 1.23.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from bigcluster.errors import ModelError
from bigcluster.models.onnx_graph import Graph, Node, OnnxFile, Tensor, ValueInfo, graph_fields, read_from_outside
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
from bigcluster.models.weight_files import WeightFiles
from bigcluster.units import quoted

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


def read_onnx(path: Path, most_bytes: int | None = None) -> OnnxFile:
    """Read an ONNX file. Raises ModelError, in one line, for everything that is wrong with it.

    most_bytes : memory that it may take; None for any. Raises MemoryBudgetError, before a byte is read, where that is
    too little for the file, and for the weights beside it.
    """
    files = WeightFiles(path, most_bytes)
    try:
        return _Reader(path, files).read()
    except (WireError, RecursionError) as error:
        kind = _looks_like(files.network)
        raise ModelError(f"{path} is no ONNX file, or is cut or damaged: {error}{kind}") from error


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

    def __init__(self, path: Path, files: WeightFiles) -> None:
        self._path, self._files = path, files
        self._n_fields = self._n_nodes = 0
        self._functions: set[tuple[str, str]] = set()
        """(domain, name) of the operators that the file defines itself."""
        self._calls: dict[_Owner, Counter[_Owner]] = defaultdict(Counter)
        """The operators of each function, and of the graph under None: those of ONNX Runtime count under None."""
        self._owner: _Owner = None
        """The function that is read; None for the graph."""

    def read(self) -> OnnxFile:
        ir_version, others = 0, Pieces()
        graphs, functions = list[memoryview](), list[memoryview]()
        for number, value, whole in self._fields(memoryview(self._files.network)):
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
        return OnnxFile(self._path, self._files.digest(), self._files.n_bytes, ir_version, graph, others)

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
                captured += read_from_outside(graph)
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
            data = self._files.data(name, external)
            n_bytes = len(data)
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
