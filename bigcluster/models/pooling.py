"""This module makes a vector from a tensor of a network: by pooling a map over its positions, or tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bigcluster.errors import ModelError

Vector = NDArray[np.float32]
"""A vector of features, (n_features,) float32."""
MAP_POOLS = ("avg", "max", "gem", "flatten")
"""The pools of a map: average, maximum and generalized mean over positions, or all values."""
TOKEN_POOLS = ("cls", "mean")
"""The pools of tokens: the class token, or the mean of the tokens of patches."""
_GEM_POWER = 3.0
"""The exponent of the generalized mean where it is not learned. Source: Radenovic et al. 2018, arXiv 1711.02512."""
_GEM_LEAST = 1e-6
"""Smaller values are raised to this one before the power is taken. Source: the code of the same authors."""


@dataclass(frozen=True)
class Pooling:
    """The function that makes a vector from a tensor of one shape."""

    name: str
    """avg, max, gem, flatten, cls or mean; "none" for a tensor that is a vector already."""
    n_features: int
    apply: Callable[[NDArray[Any]], Vector]
    """It takes a tensor (1, ...) and returns (n_features,) float32, a copy."""


def pooling_of(
    shape: tuple[int, ...],
    pool: str | None,
    *,
    channels_axis: int = 1,
    n_patches: int | None = None,
    prefix_tokens: int | None = None,
    layer: str = "the tensor",
) -> Pooling:
    """Return the pooling for tensors of this shape.

    shape : the shape of the tensor for one picture: (1, d), (1, n_tokens, d), or a map with four axes. pool : one of
    the pools, or None for the default: avg for a map, cls for tokens, and mean for tokens without a class token.
    channels_axis : the axis of the channels of a map, 1 or 3. n_patches : the number of tokens of patches, which come
    last, where it is known. prefix_tokens : the number of tokens before them, where it is known. layer : the name of
    the tensor in messages.
    Raises ModelError for another shape, or for a pool that does not fit the shape.
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
    positions = (2, 3) if channels_axis == 1 else (1, 2)

    def average(value: NDArray[Any]) -> Vector:
        means: Vector = value.mean(axis=positions, dtype=np.float64)[0].astype(np.float32)
        return means

    def largest(value: NDArray[Any]) -> Vector:
        maxima: Vector = value.max(axis=positions)[0].astype(np.float32)
        return maxima

    def generalized(value: NDArray[Any]) -> Vector:
        powers = np.maximum(value, _GEM_LEAST).astype(np.float64) ** _GEM_POWER
        means: Vector = (powers.mean(axis=positions)[0] ** (1 / _GEM_POWER)).astype(np.float32)
        return means

    functions = {"avg": average, "max": largest, "gem": generalized}
    if pool not in functions:
        raise ModelError(f"{layer} is a map {shape}: features.pool must be one of {', '.join(MAP_POOLS)}, not {pool}")
    return Pooling(pool, shape[channels_axis], functions[pool])


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
