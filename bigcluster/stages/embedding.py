"""What the features of a picture are where they are not its pixels: the output of a network, or vectors of the user.

Features are made while pictures are decoded (`loading.row_features`), and stored beside the pixels, row for row. A row
of values holds the features first, and then the numbers and the probabilities of the most probable classes, where they
were asked for.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bigcluster.config import Settings
from bigcluster.kernels.decode import View
from bigcluster.kernels.decode.network_input import FITS
from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.models import Network, Options, open_network
from bigcluster.runtime.events import Listener, silent
from bigcluster.store import fingerprint

KIND_OF_NETWORK, KIND_OF_VECTORS = "network", "vectors"


class Embedding(Protocol):
    """Features that are made for every listed row. See `loading.row_features.RowFeatures` for `fill`."""

    kind: str
    name: str
    """What made them, for people."""
    n_features: int
    n_classes: int
    """How many of the most probable classes are kept for each row; 0 where there are none."""
    class_names: tuple[str, ...]
    fingerprint: str
    """Equal fingerprints mean equal features of equal pictures."""
    view: View | None
    """The second picture of each decode; None where no picture is needed."""
    shared_bytes: int
    """Bytes that are held once, whatever the number of threads."""
    thread_bytes: int
    """Bytes that each decoding thread holds."""

    def fill(self, row: int, view: NDArray[np.uint8] | None, out: NDArray[np.float32]) -> str: ...


def n_row_values(embedding: Embedding) -> int:
    """The number of float32 values of a row: features, and then numbers and probabilities of its classes."""
    return embedding.n_features + 2 * embedding.n_classes


class NetworkEmbedding:
    """The features that a network gives, of length 1 where features.normalize = l2."""

    kind = KIND_OF_NETWORK

    def __init__(self, network: Network, *, n_classes: int, unit_length: bool) -> None:
        self._network, self._unit_length = network, unit_length
        self.name, self.n_features, self.n_classes = network.name, network.n_features, n_classes
        self.class_names = network.class_names if n_classes else ()
        self.fingerprint = fingerprint(network=network.fingerprint, unit_length=unit_length, n_classes=n_classes)
        self.view: View | None = View(network.width, network.height, FITS[network.resize])
        self.shared_bytes, self.thread_bytes = network.memory.session_bytes, network.memory.thread_bytes

    def fill(self, row: int, view: NDArray[np.uint8] | None, out: NDArray[np.float32]) -> str:
        """Run the network on the view, (height, width, 3) uint8, and fill `out`, (n_row_values,) float32.

        Returns "" or, in one line, why there are no features.
        """
        del row
        assert view is not None
        seen = self._network.look(view)
        if not np.isfinite(seen.features).all():
            return f"the network {self.name} gives a feature that is not finite"
        out[: self.n_features] = to_unit_length(seen.features) if self._unit_length else seen.features
        for place, one in enumerate(seen.classes):
            out[self.n_features + place] = one.index
            out[self.n_features + self.n_classes + place] = one.probability
        return ""


def open_embedding(settings: Settings, listener: Listener = silent) -> Embedding | None:
    """Open what makes the features; None where they are the pixels.

    Raises ModelError for a network that cannot be used, FetchError where it cannot be fetched, and ConfigError for
    settings that do not fit together.
    """
    if settings.has_pixel_features:
        return None
    chosen = settings.embedding
    size = None if chosen.size is None else tuple(int(side) for side in chosen.size.split("x"))
    options = Options(
        layer=chosen.layer,
        pool=None if chosen.pool == "auto" else chosen.pool,
        resize=chosen.resize,
        size=size,  # type: ignore[arg-type]
        gray=chosen.gray,
        n_classes=chosen.classes,
    )
    network = open_network(settings.features, options, offline=settings.models.offline, listener=listener)
    return NetworkEmbedding(network, n_classes=chosen.classes, unit_length=chosen.normalize == "l2")
