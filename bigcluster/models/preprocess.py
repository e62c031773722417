"""How a picture becomes the input of a network: size, resize rule, scaling and layout, read from a table.

The values come from the first of these that is there: a TOML table beside the file (`net.toml` beside `net.onnx`), the
registry, or a `preprocessor_config.json` as exporters of Hugging Face write it. Without any of them the network is
refused, and the message shows the table to write: a wrong scaling gives features that look right and are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from bigcluster.errors import ModelError
from bigcluster.files.bounded import SETTINGS_BYTES, parse_json, read_bounded
from bigcluster.files.toml import parse_toml
from bigcluster.models.beside import path_beside
from bigcluster.models.pooling import MAP_POOLS, TOKEN_POOLS
from bigcluster.units import as_real, as_whole, quoted

RESIZE_RULES = ("crop", "squash", "pad")
"""The largest middle part with the proportions of the input; all, stretched; all, with its edges repeated."""
POOLS = (*MAP_POOLS, *TOKEN_POOLS)
LAYOUTS = ("NCHW", "NHWC")
ORDERS = ("RGB", "BGR")
HEADS = ("product", "convolution")
MOST_PIXELS = 4096
"""Pixels of one side of an input, at most: the largest networks take some 1,000."""
_CONFIG = "preprocessor_config.json"
_MOST_VALUES = 10_000
"""JSON values of such a file, at most; real ones have some dozen."""
_LEVELS = 255.0
_EXAMPLE = "size = 224, mean = [123.675, 116.28, 103.53], std = [58.395, 57.12, 57.375]"


@dataclass(frozen=True)
class Preprocessing:
    """What has to be known of a network beside its file. value = (grey level 0..255 - mean) / std."""

    size: tuple[int, int] | None = None
    """(width, height) in pixels; None where the file says it."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Grey levels of red, green and blue."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    order: str = "RGB"
    layout: str | None = None
    resize: str = "crop"
    layer: str | None = None
    head: str = "product"
    pool: str | None = None
    prefix_tokens: int | None = None
    labels: str | None = None
    """ "imagenet", or the path of a text file in the folder of the network, with one class in a line."""


def preprocessing_from(table: Mapping[str, Any], where: str) -> Preprocessing:
    """Read a table. where : names it in messages. Raises ModelError for an unknown key or a bad value."""
    known = [item.name for item in fields(Preprocessing)]
    unknown = [key for key in table if key not in known]
    if unknown:
        raise ModelError(f"{where} has the unknown key {quoted(unknown[0])}; known are {', '.join(known)}")
    values = {key: _CHECKS[key](value, f"{key} in {where}") for key, value in table.items()}
    return Preprocessing(**values)


def _size(value: Any, what: str) -> tuple[int, int]:
    sides = [value, value] if as_whole(value) is not None else value
    whole = [as_whole(side) for side in sides] if isinstance(sides, list | tuple) else []
    if len(whole) != 2 or any(side is None or not 0 < side <= MOST_PIXELS for side in whole):
        raise ModelError(f"{what} must be pixels from 1 to {MOST_PIXELS}, or [width, height], not {quoted(value)}")
    return whole[0] or 0, whole[1] or 0


def _three(value: Any, what: str) -> tuple[float, float, float]:
    given = value if isinstance(value, list | tuple) else [value]
    numbers = [as_real(one) for one in given]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or any(one is None or not abs(one) < 1e6 for one in numbers):
        raise ModelError(
            f"{what} must be three numbers in grey levels, such as [127.5, 127.5, 127.5], not {quoted(value)}"
        )
    red, green, blue = (float(one or 0.0) for one in numbers)
    return red, green, blue


def _std(value: Any, what: str) -> tuple[float, float, float]:
    three = _three(value, what)
    if min(three) <= 0:
        raise ModelError(f"{what} must be above 0, not {quoted(value)}")
    return three


def one_of(choices: tuple[str, ...], value: Any, what: str) -> str:
    """Return a choice. Raises ModelError, with all of them, for another value. what : names it in the message."""
    if value not in choices:
        raise ModelError(f"{what} must be one of {', '.join(choices)}, not {quoted(value)}")
    return str(value)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ModelError(f"{what} must be a text, not {quoted(value)}")
    return value


def _count(value: Any, what: str) -> int:
    number = as_whole(value)
    if number is None or number < 0:
        raise ModelError(f"{what} must be a whole number of at least 0, not {quoted(value)}")
    return number


_CHECKS: dict[str, Any] = {
    "size": _size,
    "mean": _three,
    "std": _std,
    "order": lambda value, what: one_of(ORDERS, value, what),
    "layout": lambda value, what: one_of(LAYOUTS, value, what),
    "resize": lambda value, what: one_of(RESIZE_RULES, value, what),
    "layer": _text,
    "head": lambda value, what: one_of(HEADS, value, what),
    "pool": lambda value, what: one_of(POOLS, value, what),
    "prefix_tokens": _count,
    "labels": _text,
}


def preprocessing_beside(file: Path, registered: Preprocessing | None) -> tuple[Preprocessing, str]:
    """Return how pictures are prepared for a network file, and where that is written.

    registered : what the registry knows of the file. Raises ModelError where nothing says it, or a table is wrong.
    """
    table = file.with_suffix(".toml")
    if table.is_file():
        try:
            values = parse_toml(read_bounded(table, SETTINGS_BYTES, follow=True).decode())
        except (OSError, ValueError) as error:
            raise ModelError(f"{table} cannot be read: {error}") from error
        found = preprocessing_from(values, str(table))
        if found.labels not in (None, "imagenet"):
            names = path_beside(table, str(found.labels))
            if names is None:
                raise ModelError(
                    f"{table} has its class names in the file {quoted(found.labels)}, which is not in the folder of "
                    "the network: not allowed; copy it there"
                )
            found = replace(found, labels=str(names))
        return found, str(table)
    if registered is not None:
        return registered, "the registry"
    # A folder that was exported for transformers.js has its networks in a folder onnx/.
    folders = [file.parent, file.parent.parent] if file.parent.name == "onnx" else [file.parent]
    for config in (folder / _CONFIG for folder in folders):
        if config.is_file():
            return _of_config(config), str(config)
    raise ModelError(
        f"nothing says how pictures are scaled for {file}: it is no file of the registry; write {table} with lines "
        f"such as {_EXAMPLE} (grey levels 0..255), or put its {_CONFIG} beside it"
    )


def _of_config(file: Path) -> Preprocessing:
    """Read a preprocessor_config.json. Its resize rule is not read: ours measured better on pictures of all shapes."""
    try:
        values = parse_json(read_bounded(file, SETTINGS_BYTES, follow=True), _MOST_VALUES)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{file} holds no settings: {quoted(json.dumps(values))}")
    factor = as_real(values.get("rescale_factor", 1 / _LEVELS)) if values.get("do_rescale", True) else 1.0
    if not factor or factor < 0:
        raise ModelError(f"{file} has a rescale_factor of {quoted(values.get('rescale_factor'))}; it must be above 0")
    table: dict[str, Any] = {"mean": [0.0], "std": [1 / factor]}
    if values.get("do_normalize", True):
        if "image_mean" not in values or "image_std" not in values:
            raise ModelError(f"{file} has no image_mean and image_std, and does not say do_normalize = false")
        mean = _three(values["image_mean"], f"image_mean in {file}")
        std = _std(values["image_std"], f"image_std in {file}")
        table = {"mean": [one / factor for one in mean], "std": [one / factor for one in std]}
    size = values.get("crop_size") if values.get("do_center_crop") else values.get("size")
    if isinstance(size, dict):
        height = size.get("height", size.get("shortest_edge"))
        size = [size.get("width", height), height]
    if size is not None:
        table["size"] = size
    return preprocessing_from(table, str(file))
