"""This module opens a network, which describes pictures: one session for all threads, one picture at a time.

network = open_network("mobilenetv2")        # or the path of an ONNX file
network.features(picture)                    # (h, w, 3) uint8 -> (n_features,) float32
network.describe(picture)                    # the features and the classes, from one computation
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ModelError
from bigcluster.files.bounded import read_bounded
from bigcluster.files.durable import digest_of
from bigcluster.kernels.decode import network_input, scaling_tables
from bigcluster.models import registry
from bigcluster.models.graph import NetworkGraph
from bigcluster.models.pooling import Pooling, pooling_of
from bigcluster.models.preprocess import POOLS, RESIZE_RULES, Preprocessing, one_of
from bigcluster.models.processor import cpu_class
from bigcluster.models.session import open_session, provider_of, run, run_first, runtime_version
from bigcluster.models.source import Source, find_source
from bigcluster.models.trial import CHILD_BYTES, try_network
from bigcluster.runtime.events import Listener, silent
from bigcluster.runtime.sampler import release_memory, resident_bytes
from bigcluster.units import MIB, printable, quoted

_LABEL_BYTES = 4 * MIB
"""Bytes of a file of class names, at most. Chosen, not measured: it is room for some hundred thousand names."""
_MOST_LABEL_CHARACTERS = 1000
"""Characters of the name of a class, at most. Chosen, not measured: the longest of ImageNet has 121."""
_VERSION = 1
"""The version of the computation of features. It is raised when the same settings give other bits than before."""


@dataclass(frozen=True)
class Options:
    """The settings of a user for a network. None stands for the value of its table or of the registry."""

    layer: str | None = None
    pool: str | None = None
    resize: str | None = None
    size: tuple[int, int] | None = None
    """(width, height) in pixels, for a network whose input may have any size."""
    gray: bool = False
    """Whether pictures are turned to grey: three equal channels."""
    n_classes: int = 0
    """The number of the most probable classes that are returned for each picture."""
    provider: str = "cpu"


@dataclass(frozen=True)
class ClassProbability:
    """A class and its probability for a picture, 0 to 1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Description:
    """The features and classes of one picture."""

    features: NDArray[np.float32]
    """(n_features,)"""
    classes: tuple[ClassProbability, ...]
    """The most probable classes, in descending order; empty where `Options.n_classes` is 0."""


@dataclass(frozen=True)
class MemoryUse:
    """The memory of a network in bytes: the growth of this process, measured while the network is loaded."""

    session_bytes: int
    """The weights in the layouts of ONNX Runtime, once for all threads."""
    thread_bytes: int
    """The memory that one thread adds when it computes. It is not released between pictures."""


class NoFeaturesError(ModelError):
    """A network has no features for one picture, while it can describe others."""


def open_network(
    name_or_path: str,
    options: Options | None = None,
    *,
    offline: bool = False,
    most_bytes: int | None = None,
    try_first: bool = False,
    listener: Listener = silent,
) -> Network:
    """Load a network by a name of the registry or by the path of its file. The arguments are those of `find_source`.

    try_first : whether a network that the registry does not know is first loaded in a child process (trial.py), which
    takes half a second and keeps a network without an end, or of too much memory, out of this process.

    Raises the errors of `find_source`, ModelError for options that do not fit the network, and MemoryBudgetError for a
    network that takes more memory than `most_bytes`.
    """
    source = find_source(name_or_path, offline=offline, most_bytes=most_bytes, listener=listener)
    return Network(source, options or Options(), most_bytes=most_bytes, try_first=try_first and not source.is_known)


class Network:
    """A loaded network. Any number of threads may call its methods at the same time, except `close`."""

    def __init__(
        self, source: Source, options: Options, *, most_bytes: int | None = None, try_first: bool = False
    ) -> None:
        """Load it and describe one black picture, which gives the number of features and the use of memory.

        The other arguments are those of `open_network`.
        """
        preprocessing = source.preprocessing
        self.name, self.licence, self.path = source.name, source.licence, source.path
        self.sha256, self.note = source.file.sha256, source.note
        self.resize = (
            preprocessing.resize if options.resize is None else one_of(RESIZE_RULES, options.resize, "features.resize")
        )
        pool = preprocessing.pool if options.pool is None else one_of(POOLS, options.pool, "features.pool")
        provider_of(options.provider)
        graph = NetworkGraph(source.file)
        self.width, self.height = input_size(graph, preprocessing, options.size)
        self._layout = layout_of(graph, preprocessing)
        chosen = graph.choose(options.layer or preprocessing.layer, head=preprocessing.head)
        self.layer, self.why = chosen.layer, chosen.why
        if options.n_classes and chosen.logits is None:
            raise ModelError(f"{self.path} has no classifier, so features.classes must be 0")
        self._outputs = [chosen.layer]
        self._logits = chosen.logits if options.n_classes else None
        if self._logits is not None and self._logits != chosen.layer:
            self._outputs.append(self._logits)
        self._input = graph.input
        self._options, self._order = options, preprocessing.order
        self._preprocessing = {
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "order": preprocessing.order,
            "prefix_tokens": preprocessing.prefix_tokens,
        }
        self._shape = graph.input.shape(self.height, self.width, self._layout)
        self._tables = self._scaling(preprocessing)
        self._of_thread = threading.local()
        pooling = {
            "channels_axis": graph.channels_axis(chosen.layer),
            "n_patches": graph.n_patches(self.height, self.width),
            "prefix_tokens": preprocessing.prefix_tokens,
            "layer": f"the tensor {quoted(chosen.layer)} of {self.path}",
        }
        black = np.zeros((self.height, self.width, 3), np.uint8)
        inputs = {self._input.name: self.prepare(black)}
        release_memory()
        before = resident_bytes()
        pruned = graph.pruned(self._outputs)
        n_pruned_bytes = len(pruned)
        if try_first:
            # While the child runs, this process has the file and two copies of it; the child has one more.
            taken_bytes = source.file.n_bytes + 3 * n_pruned_bytes + CHILD_BYTES
            limit_bytes = None if most_bytes is None else max(0, most_bytes - taken_bytes)
            provider = options.provider
            try_network(pruned, self._outputs, inputs, self.path, provider=provider, limit_bytes=limit_bytes)
        self._session = open_session(pruned, self.path, provider=options.provider)
        del pruned
        release_memory()
        loaded = resident_bytes()
        first = run_first(self._session, self._outputs, inputs, self.path)
        self.memory = MemoryUse(max(loaded - before, n_pruned_bytes), max(resident_bytes() - loaded, 0))
        value = first[0]
        if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float16, np.float64):
            raise ModelError(f"the tensor {quoted(self.layer)} of {self.path} does not hold floats; take another layer")
        self._n_axes = value.ndim
        self._pooling: Pooling = pooling_of(value.shape, pool, **pooling)  # type: ignore[arg-type]
        self.n_features, self.pool = self._pooling.n_features, self._pooling.name
        self.class_names = self._read_labels(preprocessing.labels, first[-1].size) if self._logits is not None else ()
        if options.n_classes > len(self.class_names):
            raise ModelError(
                f"features.classes = {options.n_classes}, and {self.path} has {len(self.class_names)} classes; give "
                f"features.classes = {len(self.class_names)} or fewer"
            )

    def _scaling(self, preprocessing: Preprocessing) -> NDArray[Any]:
        if self._input.dtype != "uint8":
            return scaling_tables(preprocessing.mean, preprocessing.std)
        if preprocessing.mean != (0.0, 0.0, 0.0) or preprocessing.std != (1.0, 1.0, 1.0):
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
        """Whether pictures are turned to grey."""
        return self._options.gray

    @property
    def classifier(self) -> str | None:
        """The tensor of the scores of the classes; None where `Options.n_classes` is 0."""
        return self._logits

    @property
    def identity(self) -> dict[str, Any]:
        """Everything on which the bits of the features depend, as JSON values."""
        return {
            "version": _VERSION,
            "sha256": self.sha256,
            "layer": self.layer,
            "pool": self.pool,
            "size": [self.width, self.height],
            "resize": self.resize,
            "gray": self._options.gray,
            "layout": self._layout,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in self._preprocessing.items()},
            "provider": self._options.provider,
            "onnxruntime": runtime_version(),
            "cpu": cpu_class(),
        }

    @property
    def fingerprint(self) -> str:
        """The digest of `identity`, 32 hex digits: equal fingerprints mean equal features."""
        import json

        return digest_of(json.dumps(self.identity, sort_keys=True).encode())

    def close(self) -> None:
        """Release the memory of the session. The network cannot run after that. A second call does nothing."""
        if hasattr(self, "_session"):
            del self._session
            release_memory()

    def features(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Describe a picture. picture : (h, w, 3) uint8, RGB, of any size. Returns (n_features,) float32.

        Raises NoFeaturesError where the number of values is another one than for other pictures.
        """
        return self._vector(self._run(picture)[0])

    def _vector(self, value: NDArray[Any]) -> NDArray[np.float32]:
        # A network may compute a shape that depends on the picture.
        if value.ndim != self._n_axes or value.shape[0] != 1 or not value.size:
            raise NoFeaturesError(f"the network gives a tensor {value.shape} of another shape than of other pictures")
        vector = self._pooling.apply(value)
        if len(vector) != self.n_features:
            raise NoFeaturesError(f"the network gives {len(vector)} values, expected {self.n_features}")
        return vector

    def describe(self, picture: NDArray[np.uint8]) -> Description:
        """Describe a picture and name its most probable classes, in one computation. picture : as for `features`.

        Raises NoFeaturesError as `features` does, and where the scores of the classes are not finite.
        """
        values = self._run(picture)
        features = self._vector(values[0])
        return Description(features, self._most_probable(values[-1]) if self._logits is not None else ())

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
        """Return a picture as the input of the network, in its shape and dtype. picture : as for `features`.

        Every thread has one array, which its next picture overwrites.
        """
        buffer = getattr(self._of_thread, "buffer", None)
        if buffer is None:
            buffer = self._of_thread.buffer = np.empty(self._shape, self._tables.dtype)
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


def input_size(graph: NetworkGraph, preprocessing: Preprocessing, size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of the input in pixels. size : that of the settings, or None.

    Raises ModelError where no source has the size, or two sources disagree.
    """
    path, (width, height) = graph.file.path, (graph.input.width, graph.input.height)
    chosen = size or preprocessing.size
    if chosen is None:
        if width is None or height is None:
            raise ModelError(f"{path} takes pictures of any size, and nothing says which; use features.size = 224")
        return width, height
    for fixed, side in ((width, chosen[0]), (height, chosen[1])):
        if fixed is not None and fixed != side:
            where = "features.size" if size else "its table"
            raise ModelError(
                f"{path} takes pictures of {width or '?'} x {height or '?'} pixels, and {where} says "
                f"{chosen[0]} x {chosen[1]}"
            )
    return chosen


def layout_of(graph: NetworkGraph, preprocessing: Preprocessing) -> str:
    """Return NCHW or NHWC. Raises ModelError where the file and its table disagree."""
    if preprocessing.layout is None or preprocessing.layout == graph.input.layout:
        return graph.input.layout
    if graph.input.is_layout_known:
        raise ModelError(
            f"{graph.file.path} has the layout {graph.input.layout}, and its table says {preprocessing.layout}"
        )
    return preprocessing.layout
