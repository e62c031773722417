"""A network that is ready to describe pictures: one session for all threads, one picture at a time.

network = open_network("mobilenetv2")        # or the path of an ONNX file
network.features(picture)                    # (h, w, 3) uint8 -> (n_features,) float32
network.look(picture)                        # the same, with the classes that were asked for, from the same Run
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ModelError
from bigcluster.files.bounded import read_bounded
from bigcluster.files.durable import digest_of
from bigcluster.kernels.decode import network_input, scaling_tables
from bigcluster.models import fetch, registry
from bigcluster.models.beside import is_there
from bigcluster.models.graph import NetworkGraph
from bigcluster.models.onnx_file import read_onnx
from bigcluster.models.onnx_graph import OnnxFile
from bigcluster.models.pooling import Pooling, pooling_of
from bigcluster.models.preprocess import POOLS, RESIZE_RULES, Preprocessing, one_of, preprocessing_beside
from bigcluster.models.processor import cpu_class
from bigcluster.models.session import open_session, provider_of, run, run_first, runtime_version
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.sampler import release_memory, resident_bytes
from bigcluster.units import MIB, printable, quoted

_LABEL_BYTES = 4 * MIB
"""Bytes of a file of class names, at most: some hundred thousand names."""
_MOST_LABEL_CHARACTERS = 1000
"""Characters of the name of a class, at most."""
_VERSION = 1
"""Of how a picture becomes features. It is raised when the same settings give other bits than before."""


@dataclass(frozen=True)
class Options:
    """What a user may choose of a network; None takes what the file or the registry says."""

    layer: str | None = None
    pool: str | None = None
    resize: str | None = None
    size: tuple[int, int] | None = None
    """(width, height) in pixels, of a network whose input may have any size."""
    gray: bool = False
    """Whether pictures are seen in grey: three equal channels."""
    n_classes: int = 0
    """How many of the most probable classes are told of each picture."""
    provider: str = "cpu"


@dataclass(frozen=True)
class Source:
    """A network file, with what is known of it."""

    name: str
    """Its name in the registry, or that of the file."""
    licence: str
    path: Path
    file: OnnxFile
    preprocessing: Preprocessing
    described_in: str
    """Where it is written how pictures are prepared."""
    note: str


@dataclass(frozen=True)
class ClassProbability:
    """One class of a picture."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Seen:
    """What a network says of one picture."""

    features: NDArray[np.float32]
    """(n_features,)"""
    classes: tuple[ClassProbability, ...]
    """The most probable first; empty where none were asked for."""


@dataclass(frozen=True)
class MemoryUse:
    """Measured when a network is loaded: the growth of this process."""

    session_bytes: int
    """Weights, in the layouts of ONNX Runtime; once for all threads."""
    thread_bytes: int
    """What one thread adds while it computes, which is kept for the next picture."""
    loading_bytes: int
    """The most while it is loaded, before any picture: the file, what is kept of it, and the session."""


class NoFeaturesError(ModelError):
    """A network has nothing to say of one picture; it can describe others."""


def find_source(
    name_or_path: str, *, offline: bool = False, most_bytes: int | None = None, listener: Listener = silent
) -> Source:
    """Find and read a network: a name of the registry first, then a file.

    most_bytes : memory that reading it may take; None for any.
    Raises ModelError for what cannot be used, FetchError where a download fails, MemoryBudgetError for a file that is
    too large for `most_bytes`.
    """
    if name_or_path in registry.registry():
        entry = registry.find(name_or_path)
        stored = fetch.get(entry, offline=offline, listener=listener)
        file = read_onnx(stored.path, most_bytes)
        if stored.known.sha256 not in (None, file.sha256):
            raise ModelError(f"{stored.path} was changed while it was read; give the command again")
        return _source(entry.name, entry.licence, stored.path, file, stored.known.preprocessing, stored.note)
    path = Path(name_or_path)
    if not is_there(path):
        registry.find(name_or_path)  # raises
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give the ONNX file in it")
    file = read_onnx(path, most_bytes)
    recognized = registry.recognize(file.sha256)
    if recognized is not None:
        entry, known = recognized
        return _source(entry.name, entry.licence, path, file, known.preprocessing, "")
    return _source(printable(path.name), "unknown", path, file, None, f"{path} has the SHA-256 {file.sha256}")


def _source(name: str, licence: str, path: Path, file: OnnxFile, registered: Preprocessing | None, note: str) -> Source:
    preprocessing, where = preprocessing_beside(path, registered)
    return Source(name, licence, path, file, preprocessing, where, note)


def open_network(
    name_or_path: str,
    options: Options | None = None,
    *,
    offline: bool = False,
    most_bytes: int | None = None,
    listener: Listener = silent,
) -> Network:
    """Load a network by a name of the registry, or by the path of its file; the listener hears of a download.

    Raises what `find_source` does, to which `most_bytes` goes.
    """
    source = find_source(name_or_path, offline=offline, most_bytes=most_bytes, listener=listener)
    return Network(source, options or Options())


class Network:
    """A network that is loaded. All methods may be called by any number of threads at the same time."""

    def __init__(self, source: Source, options: Options) -> None:
        """Load it, and look at one black picture: its size of features and its memory are known after that."""
        given = source.preprocessing
        self.name, self.licence, self.path = source.name, source.licence, source.path
        self.sha256, self.note = source.file.sha256, source.note
        self.resize = (
            given.resize if options.resize is None else one_of(RESIZE_RULES, options.resize, "features.resize")
        )
        pool = given.pool if options.pool is None else one_of(POOLS, options.pool, "features.pool")
        provider_of(options.provider)
        graph = NetworkGraph(source.file)
        self.width, self.height = input_size(graph, given, options.size)
        self._layout = layout_of(graph, given)
        chosen = graph.choose(options.layer or given.layer, head=given.head)
        self.layer, self.why = chosen.layer, chosen.why
        if options.n_classes and chosen.logits is None:
            raise ModelError(f"{self.path} has no classifier, so features.classes must be 0")
        self._outputs = [chosen.layer]
        self._logits = chosen.logits if options.n_classes else None
        if self._logits is not None and self._logits != chosen.layer:
            self._outputs.append(self._logits)
        self._input = graph.input
        self._options, self._order = options, given.order
        self._described = {
            "mean": given.mean,
            "std": given.std,
            "order": given.order,
            "prefix_tokens": given.prefix_tokens,
        }
        self._shape = graph.input.shape(self.height, self.width, self._layout)
        self._tables = self._scaling(given)
        self._own = threading.local()
        pooling = {
            "channels_axis": graph.channels_axis(chosen.layer),
            "n_patches": graph.n_patches(self.height, self.width),
            "prefix_tokens": given.prefix_tokens,
            "layer": f"the tensor {quoted(chosen.layer)} of {self.path}",
        }
        release_memory()
        before = resident_bytes()
        pruned = graph.pruned(self._outputs)
        n_pruned_bytes = len(pruned)
        self._session = open_session(pruned, self.path, provider=options.provider)
        del pruned
        release_memory()
        loaded = resident_bytes()
        black = np.zeros((self.height, self.width, 3), np.uint8)
        first = run_first(self._session, self._outputs, {self._input.name: self.prepare(black)}, self.path)
        session_bytes = max(loaded - before, n_pruned_bytes)
        self.memory = MemoryUse(
            session_bytes,
            max(resident_bytes() - loaded, 0),
            session_bytes + source.file.n_bytes + n_pruned_bytes,
        )
        value = first[0]
        if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float16, np.float64):
            raise ModelError(f"the tensor {quoted(self.layer)} of {self.path} does not hold floats; take another layer")
        self._n_axes = value.ndim
        self._pooling: Pooling = pooling_of(value.shape, pool, **pooling)  # type: ignore[arg-type]
        self.n_features, self.pool = self._pooling.n_features, self._pooling.name
        self.class_names = self._read_labels(given.labels, first[-1].size) if self._logits is not None else ()
        if options.n_classes > len(self.class_names):
            raise ModelError(
                f"features.classes = {options.n_classes}, and {self.path} has {len(self.class_names)} classes; give "
                f"features.classes = {len(self.class_names)} or fewer"
            )

    def _scaling(self, given: Preprocessing) -> NDArray[Any]:
        if self._input.dtype != "uint8":
            return scaling_tables(given.mean, given.std)
        if given.mean != (0.0, 0.0, 0.0) or given.std != (1.0, 1.0, 1.0):
            raise ModelError(f"{self.path} takes uint8, so its mean must be 0 and its std 1, not as in its table")
        return np.tile(np.arange(256, dtype=np.uint8), (3, 1))

    def _read_labels(self, labels: str | None, n_classes: int) -> tuple[str, ...]:
        if labels is None:
            return tuple(f"class {i}" for i in range(n_classes))
        if labels == "imagenet":
            names = registry.imagenet_labels()
        else:
            try:
                names = tuple(read_bounded(labels, _LABEL_BYTES, follow=True).decode().splitlines())
            except (OSError, UnicodeDecodeError) as error:
                raise ModelError(f"the class names {labels} cannot be read: {error}") from error
        names = tuple(printable(name) for name in names)
        if any(len(name) > _MOST_LABEL_CHARACTERS for name in names):
            raise ModelError(
                f"the class names {labels} have a line of more than {_MOST_LABEL_CHARACTERS} characters; give one name "
                "in each line"
            )
        if len(names) != n_classes:
            raise ModelError(f"{self.path} has {n_classes} classes, and its list of names has {len(names)}")
        return names

    @property
    def gray(self) -> bool:
        """Whether pictures are seen in grey."""
        return self._options.gray

    @property
    def classifier(self) -> str | None:
        """The tensor of which the classes are taken; None where none were asked for."""
        return self._logits

    @property
    def identity(self) -> dict[str, Any]:
        """Return all that decides the bits of the features, as JSON values."""
        return {
            "version": _VERSION,
            "sha256": self.sha256,
            "layer": self.layer,
            "pool": self.pool,
            "size": [self.width, self.height],
            "resize": self.resize,
            "gray": self._options.gray,
            "layout": self._layout,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in self._described.items()},
            "provider": self._options.provider,
            "onnxruntime": runtime_version(),
            "cpu": cpu_class(),
        }

    @property
    def fingerprint(self) -> str:
        """Return the digest of `identity`, 32 hex digits: equal fingerprints mean equal features."""
        import json

        return digest_of(json.dumps(self.identity, sort_keys=True).encode())

    def close(self) -> None:
        """Give the memory of the session back. The network cannot run after that. A second call does nothing."""
        if hasattr(self, "_session"):
            del self._session
            release_memory()

    def features(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe a picture. picture : (h, w, 3) uint8, RGB, of any size. Returns (n_features,) float32.

        Raises NoFeaturesError where the network gives another number of values than for other pictures.
        """
        return self._vector(self._run(picture)[0])

    def _vector(self, value: NDArray[Any]) -> NDArray[np.float32]:
        # The shape may depend on the picture.
        if value.ndim != self._n_axes or value.shape[0] != 1 or not value.size:
            raise NoFeaturesError(f"the network gives a tensor {value.shape} of another shape than of other pictures")
        vector = self._pooling.apply(value)
        if len(vector) != self.n_features:
            raise NoFeaturesError(f"the network gives {len(vector)} values, expected {self.n_features}")
        return vector

    def look(self, picture: NDArray[np.uint8]) -> Seen:
        """Describe a picture and name its most probable classes, from one Run. picture : as for `features`.

        Raises NoFeaturesError as `features` does, and where the scores of the classes are not finite.
        """
        values = self._run(picture)
        features = self._vector(values[0])
        return Seen(features, self._most_probable(values[-1]) if self._logits is not None else ())

    def _most_probable(self, logits: NDArray[Any]) -> tuple[ClassProbability, ...]:
        scores = logits.reshape(-1).astype(np.float64)
        if len(scores) != len(self.class_names):
            raise NoFeaturesError(f"the network gives {len(scores)} classes, expected {len(self.class_names)}")
        if not np.isfinite(scores).all():
            raise NoFeaturesError("the network gives a score of a class that is not finite")
        powers = np.exp(scores - scores.max())
        shares = powers / powers.sum()
        best = np.argsort(-shares, kind="stable")[: self._options.n_classes]
        return tuple(ClassProbability(int(i), self.class_names[i], float(shares[i])) for i in best)

    def _run(self, picture: NDArray[np.uint8]) -> list[Any]:
        return run(self._session, self._outputs, {self._input.name: self.prepare(picture)}, self.path)

    def prepare(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """Return a picture as the input of the network. The array is that of this thread, until its next picture."""
        buffer = getattr(self._own, "buffer", None)
        if buffer is None:
            buffer = self._own.buffer = np.empty(self._shape, self._tables.dtype)
        network_input(
            picture,
            buffer[0],
            self._tables,
            rule=self.resize,
            channels_first=self._layout == "NCHW",
            bgr=self._order == "BGR",
            gray=self._options.gray,
        )
        return buffer.astype(np.float16) if self._input.dtype == "float16" else buffer


def input_size(graph: NetworkGraph, given: Preprocessing, asked: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of the input. Raises ModelError where nothing says it, or two sources disagree."""
    path, (width, height) = graph.file.path, (graph.input.width, graph.input.height)
    wanted = asked or given.size
    if wanted is None:
        if width is None or height is None:
            raise ModelError(f"{path} takes pictures of any size, and nothing says which; use features.size = 224")
        return width, height
    for fixed, side in ((width, wanted[0]), (height, wanted[1])):
        if fixed is not None and fixed != side:
            where = "features.size" if asked else "its table"
            raise ModelError(
                f"{path} takes pictures of {width or '?'} x {height or '?'} pixels, and {where} says "
                f"{wanted[0]} x {wanted[1]}"
            )
    return wanted


def layout_of(graph: NetworkGraph, given: Preprocessing) -> str:
    """Return NCHW or NHWC. Raises ModelError where the file and its table disagree."""
    if given.layout is None or given.layout == graph.input.layout:
        return graph.input.layout
    if graph.input.is_layout_known:
        raise ModelError(f"{graph.file.path} has the layout {graph.input.layout}, and its table says {given.layout}")
    return given.layout
