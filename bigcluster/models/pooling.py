"""How a tensor of a network becomes a vector: a map by an average over its places, tokens by one of them or a mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ModelError

Vector = NDArray[np.float32]
MAP_POOLS = ("avg", "max", "gem", "flatten")
TOKEN_POOLS = ("cls", "mean")
_GEM_POWER = 3.0
"""The power of generalized means where it is not learned. Source: Radenovic et al. 2018, arXiv 1711.02512."""
_GEM_LEAST = 1e-6
"""What smaller values count as, before the root. Source: the same authors' code."""


@dataclass(frozen=True)
class Pooling:
    """Makes a vector of a tensor of one shape."""

    name: str
    """avg, max, gem, flatten, cls, mean; or none for a tensor that is a vector already."""
    n_features: int
    apply: Callable[[NDArray[Any]], Vector]
    """(1, ...) -> (n_features,) float32, a copy."""


def pooling_of(
    shape: tuple[int, ...],
    pool: str | None,
    *,
    channels_axis: int = 1,
    n_patches: int | None = None,
    prefix_tokens: int | None = None,
    layer: str = "the tensor",
) -> Pooling:
    """Return how a tensor of this shape becomes a vector.

    shape : of the tensor for one picture: (1, d), (1, tokens, d), or a map of four axes. pool : None for avg of a map,
    and of tokens cls, or mean where there is no class token. channels_axis : 1 or 3, of a map. n_patches : the tokens
    of the parts of a picture, which come last. prefix_tokens : those before them, where it is known. layer : for
    messages.
    Raises ModelError for a shape of another kind, or a pool that does not fit it.
    """
    if len(shape) < 2 or shape[0] != 1:
        raise ModelError(f"{layer} has the shape {shape}: it must be of one picture, (1, ...)")
    if len(shape) == 2 or (len(shape) == 3 and shape[1] == 1) or (len(shape) == 4 and shape[2:] == (1, 1)):
        return Pooling("none", int(np.prod(shape)), _flat)
    if len(shape) == 4:
        return _of_map(shape, pool or "avg", channels_axis, layer)
    if len(shape) == 3:
        return _of_tokens(shape, pool, n_patches, prefix_tokens, layer)
    if pool == "flatten":
        return Pooling("flatten", int(np.prod(shape)), _flat)
    raise ModelError(f"{layer} has the shape {shape}: of five axes and more there is only the pool flatten")


def _flat(value: NDArray[Any]) -> Vector:
    return value.reshape(-1).astype(np.float32)


def _of_map(shape: tuple[int, ...], pool: str, channels_axis: int, layer: str) -> Pooling:
    if pool == "flatten":
        return Pooling(pool, int(np.prod(shape)), _flat)
    places = (2, 3) if channels_axis == 1 else (1, 2)

    def average(value: NDArray[Any]) -> Vector:
        means: Vector = value.mean(axis=places, dtype=np.float64)[0].astype(np.float32)
        return means

    def largest(value: NDArray[Any]) -> Vector:
        most: Vector = value.max(axis=places)[0].astype(np.float32)
        return most

    def generalized(value: NDArray[Any]) -> Vector:
        powers = np.maximum(value, _GEM_LEAST).astype(np.float64) ** _GEM_POWER
        means: Vector = (powers.mean(axis=places)[0] ** (1 / _GEM_POWER)).astype(np.float32)
        return means

    how = {"avg": average, "max": largest, "gem": generalized}
    if pool not in how:
        raise ModelError(f"{layer} is a map {shape}: features.pool must be one of {', '.join(MAP_POOLS)}, not {pool}")
    return Pooling(pool, shape[channels_axis], how[pool])


def _of_tokens(
    shape: tuple[int, ...], pool: str | None, n_patches: int | None, prefix_tokens: int | None, layer: str
) -> Pooling:
    n_tokens, n_features = shape[1:]
    prefix = prefix_tokens
    if prefix is None and n_patches is not None and 0 < n_patches <= n_tokens:
        prefix = n_tokens - n_patches
    if pool == "flatten":
        return Pooling(pool, n_tokens * n_features, _flat)
    pool = pool or ("mean" if prefix == 0 else "cls")
    if pool not in TOKEN_POOLS:
        raise ModelError(f"{layer} is tokens {shape}: features.pool must be cls, mean or flatten, not {pool}")
    if pool == "cls":
        if prefix == 0:
            raise ModelError(f"{layer} has tokens of patches alone, and no class token; use features.pool = mean")
        return Pooling(pool, n_features, lambda value: value[0, 0].astype(np.float32))
    if prefix is None or prefix >= n_tokens:
        raise ModelError(
            f"nothing says how many of the {n_tokens} tokens of {layer} stand before those of the patches; write "
            "prefix_tokens = 1 (the class token, and one for each register) into the TOML table beside the network"
        )
    first = prefix
    return Pooling(pool, n_features, lambda value: value[0, first:].mean(axis=0, dtype=np.float64).astype(np.float32))
