"""What the features of a picture are where they are not its pixels: the output of a network, or vectors of the user.

Features are made while pictures are decoded (`loading.row_features`), and stored beside the pixels, row for row. A row
of values holds the features first, and then the numbers and the probabilities of the most probable classes, where they
were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bigcluster.catalog import Listing
from bigcluster.catalog.manifest_rows import LEAST_BYTES
from bigcluster.config import Settings, are_vectors
from bigcluster.files.durable import digest_of
from bigcluster.kernels.decode import View
from bigcluster.kernels.linalg.unit_length import to_unit_length
from bigcluster.models import Network, NoFeaturesError, Options, open_network
from bigcluster.planning.feature_shape import FeatureShape
from bigcluster.runtime.events import Listener, silent
from bigcluster.stages.loading.sample import image_size_of
from bigcluster.stages.vectors import KIND_OF_VECTORS, Vectors
from bigcluster.store import fingerprint
from bigcluster.units import printable

KIND_OF_NETWORK = "network"
"""The kind of features that a network makes."""
_SHOWN_CHARACTERS = 200
"""Characters of the name of a layer that are shown, at most. Chosen: exporters write names of up to about 100."""


class Embedding(Protocol):
    """Makes the features of every listed row. Decoding threads call `fill` at the same time."""

    @property
    def kind(self) -> str:
        """One word for messages and marks: network or vectors."""

    @property
    def name(self) -> str:
        """What makes the features, for people."""

    @property
    def facts(self) -> dict[str, str | int | bool]:
        """The values that summary.json and the report show beside the name, each in one line."""

    @property
    def n_features(self) -> int: ...

    @property
    def dtype(self) -> str:
        """`float32`, or `uint8` where there are no classes."""

    @property
    def unit_length(self) -> bool:
        """Whether the features of every row have the length 1; then PCA scores are scaled to it too."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of all classes; empty where none are kept."""

    @property
    def n_classes(self) -> int:
        """How many of the most probable classes are kept for each row."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints mean equal features of equal pictures."""

    @property
    def view(self) -> View | None:
        """The second picture of each decode; None where no picture is needed."""

    @property
    def shared_bytes(self) -> int:
        """The bytes of memory that all threads share."""

    @property
    def thread_bytes(self) -> int:
        """The bytes of memory that each decoding thread adds."""

    @property
    def seconds(self) -> float:
        """The seconds that one thread takes for the features of a row. The decode is not included."""

    def listed(self, listing: Listing) -> None:
        """Take note of the images. It is called once, before the first row is filled.

        listing : the listed images; `fill` gets their row numbers.

        Raises UsageError where none of the images can have features.
        """

    def release(self) -> None:
        """Free the memory. It is called when no more rows will be filled, and may be called again."""

    def fill(self, row: int, view: NDArray[np.uint8] | None, out: NDArray[Any]) -> str:
        """Write the values of a listed row to `out`, (n_row_values,) of `dtype`.

        The values are the features, then the numbers and then the probabilities of its classes.
        view : (height, width, n_channels), the second picture of the decode; None where there is no view.
        Returns "" or, in one line, why the row has no finite features.
        """


def n_row_values(embedding: Embedding) -> int:
    """Return the number of values of a row: features, and the numbers and probabilities of its classes."""
    return embedding.n_features + 2 * embedding.n_classes


def shape_of(embedding: Embedding) -> FeatureShape:
    """Return what planning needs to know of the features."""
    view = embedding.view
    view_bytes = 0 if view is None else view.width * view.height * 3
    return FeatureShape(
        embedding.n_features,
        embedding.dtype,
        of_pixels=False,
        n_classes=embedding.n_classes,
        shared_bytes=embedding.shared_bytes,
        thread_bytes=embedding.thread_bytes + 3 * view_bytes,  # the view, its resize and the row of the decode
        row_seconds=embedding.seconds,
    )


def names_digest(names: Iterable[str]) -> str:
    """Return the digest of the names of classes, each in one line."""
    return digest_of("\n".join(names).encode())


def description_of(embedding: Embedding) -> dict[str, Any]:
    """Return what the store says of the features, as JSON values. It is stored with the recipe of the pixels."""
    return {
        "kind": embedding.kind,
        "name": embedding.name,
        "facts": embedding.facts,
        "n_features": embedding.n_features,
        "dtype": embedding.dtype,
        "unit_length": embedding.unit_length,
        "names": names_digest(embedding.class_names),
        "n_names": len(embedding.class_names),
        "n_classes": embedding.n_classes,
        "fingerprint": embedding.fingerprint,
    }


def _shown(layer: str) -> str:
    """Return the name of a layer as it is shown; the fingerprint covers the whole name."""
    return layer if len(layer) <= _SHOWN_CHARACTERS else f"{layer[:_SHOWN_CHARACTERS]}…"


@dataclass(frozen=True)
class NetworkEmbedding:
    """The features that a network gives."""

    network: Network
    unit_length: bool
    n_classes: int
    seconds: float
    kind: str = KIND_OF_NETWORK
    dtype: str = "float32"

    @property
    def name(self) -> str:
        return self.network.name

    @property
    def facts(self) -> dict[str, str | int | bool]:
        network = self.network
        return {
            "sha256": network.sha256,
            "licence": network.licence,
            "layer": _shown(printable(network.layer)),
            "pool": network.pool,
            "input": f"{network.width}x{network.height}",
            "resize": network.resize,
            "gray": network.gray,
            "normalize": "l2" if self.unit_length else "none",
        }

    @property
    def n_features(self) -> int:
        return self.network.n_features

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.network.class_names if self.n_classes else ()

    @property
    def fingerprint(self) -> str:
        return fingerprint(
            network=self.network.fingerprint,
            unit_length=self.unit_length,
            n_classes=self.n_classes,
            classifier=self.network.classifier,
            class_names=list(self.class_names),
        )

    @property
    def view(self) -> View | None:
        return View(self.network.width, self.network.height, self.network.resize)

    @property
    def shared_bytes(self) -> int:
        return self.network.memory.session_bytes

    @property
    def thread_bytes(self) -> int:
        return self.network.memory.thread_bytes

    def listed(self, listing: Listing) -> None:
        pass

    def release(self) -> None:
        self.network.close()

    def fill(self, row: int, view: NDArray[np.uint8] | None, out: NDArray[Any]) -> str:
        """Run the network on the view; see `Embedding.fill`."""
        del row
        assert view is not None
        try:
            seen = self.network.describe(view)
        except NoFeaturesError as error:
            return str(error)
        if not np.isfinite(seen.features).all():
            return f"the network {self.name} gives a feature that is not finite"
        n_features = self.n_features
        out[:n_features] = to_unit_length(seen.features) if self.unit_length else seen.features
        for place, one in enumerate(seen.classes):
            out[n_features + place] = one.index
            out[n_features + self.n_classes + place] = one.probability
        return ""


def fits_stored(stored: dict[str, Any] | None, embedding: Embedding | None) -> bool:
    """Return whether new features may be compared with stored ones. stored : from `description_of`; None for pixels.

    Vectors of new images are in another file than the stored ones: they need the same length and normalization.
    """
    if stored is None or embedding is None:
        return stored is None and embedding is None
    if stored["kind"] == embedding.kind == KIND_OF_VECTORS:
        now = description_of(embedding)
        return all(stored[name] == now[name] for name in ("n_features", "unit_length"))
    return bool(stored["fingerprint"] == embedding.fingerprint)


def open_embedding(
    settings: Settings,
    listener: Listener = silent,
    *,
    images: str | None = None,
    most_bytes: int | None = None,
    store_rows: bool = True,
) -> Embedding | None:
    """Open what makes the features; None where they are the pixels.

    images : the images, where a column of their manifest may be meant. most_bytes : what the budget leaves for reading
    vectors or a network; None for 16 MiB of vectors and any network. store_rows : False for a plan, which fills no row.

    Raises ModelError for a network that cannot be used, FetchError where it cannot be fetched, ConfigError for settings
    that do not fit together, UsageError for vectors that cannot be used, and MemoryBudgetError for a network that is
    too large to be read.
    """
    if settings.has_pixel_features:
        return None
    if are_vectors(settings.features):
        room = LEAST_BYTES if most_bytes is None else most_bytes
        return Vectors(settings, images, room, listener, store_rows=store_rows)
    chosen = settings.embedding
    options = Options(
        layer=chosen.layer,
        pool=chosen.pool,
        resize=chosen.resize,
        size=None if chosen.size is None else image_size_of(chosen.size),
        gray=chosen.gray,
        n_classes=chosen.classes,
    )
    network = open_network(
        settings.features,
        options,
        offline=settings.models.offline,
        most_bytes=most_bytes,
        try_first=True,
        listener=listener,
    )
    black = np.zeros((network.height, network.width, 3), np.uint8)
    begin = perf_counter()
    network.describe(black)
    return NetworkEmbedding(network, chosen.normalize == "l2", chosen.classes, perf_counter() - begin)
