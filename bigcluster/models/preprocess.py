"""This module reads how a picture becomes the input of a network: its size, resize rule, scaling and layout.

The values come from the first source that exists: a TOML table beside the file (`net.toml` beside `net.onnx`), the
registry, and a `preprocessor_config.json` as exporters of Hugging Face write it. A network without any of them is
refused, and the message shows a table to write, because wrong scaling gives wrong features that nobody would notice.
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
"""How a picture takes the size of the input: its largest middle part that has the proportions of the input; all of it,
stretched; or all of it, with its edges repeated."""
POOLS = (*MAP_POOLS, *TOKEN_POOLS)
LAYOUTS = ("NCHW", "NHWC")
ORDERS = ("RGB", "BGR")
HEADS = ("product", "convolution")
MOST_PIXELS = 4096
"""Pixels of one side of an input, at most. Chosen, not measured: large networks take about 1,000."""
_CONFIG = "preprocessor_config.json"
_MOST_VALUES = 10_000
"""JSON values in a preprocessor_config.json, at most; real ones have some dozen."""
_LEVELS = 255.0
"""The largest grey level: 1 in the units of a preprocessor_config.json."""
_MOST_SCALE = 1e6
"""Grey levels of a mean or a standard deviation, at most. Chosen, not measured: those of networks are below 256."""
_EXAMPLE = "size = 224, mean = [123.675, 116.28, 103.53], std = [58.395, 57.12, 57.375]"


@dataclass(frozen=True)
class Preprocessing:
    """What a network file does not say. The value of an input is (grey level 0..255 - mean) / std."""

    size: tuple[int, int] | None = None
    """(width, height) in pixels; None where the network file says it."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """In grey levels, for red, green and blue; so is `std`."""
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
    """Read a table. where : its name in messages. Raises ModelError for an unknown key or a wrong value."""
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
    numbers = [as_real(item) for item in (value if isinstance(value, list | tuple) else [value])]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or any(number is None or not abs(number) < _MOST_SCALE for number in numbers):
        raise ModelError(
            f"{what} must be three numbers in grey levels, such as [127.5, 127.5, 127.5], not {quoted(value)}"
        )
    red, green, blue = (float(number or 0.0) for number in numbers)
    return red, green, blue


def _std(value: Any, what: str) -> tuple[float, float, float]:
    three = _three(value, what)
    if min(three) <= 0:
        raise ModelError(f"{what} must be above 0, not {quoted(value)}")
    return three


def one_of(choices: tuple[str, ...], value: Any, what: str) -> str:
    """Return a value that is one of the choices. Raises ModelError for another one. what : its name in the message."""
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
    """Return how pictures are prepared for a network file, and the name of the source that says so.

    registered : the values of the registry for this file, or None. Raises ModelError without a source, and for a wrong
    table.
    """
    table = file.with_suffix(".toml")
    if table.is_file():
        try:
            values = parse_toml(read_bounded(table, SETTINGS_BYTES, follow=True).decode())
        except (OSError, ValueError) as error:
            raise ModelError(f"{table} cannot be read: {error}") from error
        preprocessing = preprocessing_from(values, str(table))
        if preprocessing.labels not in (None, "imagenet"):
            labels = path_beside(table, str(preprocessing.labels))
            if labels is None:
                raise ModelError(
                    f"{table} has its class names in the file {quoted(preprocessing.labels)}, which is not in the "
                    "folder of the network: not allowed; copy it there"
                )
            preprocessing = replace(preprocessing, labels=str(labels))
        return preprocessing, str(table)
    if registered is not None:
        return registered, "the registry"
    # An export for transformers.js has its networks in a folder onnx/ below its settings.
    folders = [file.parent, file.parent.parent] if file.parent.name == "onnx" else [file.parent]
    for config in (folder / _CONFIG for folder in folders):
        if config.is_file():
            return _of_config(config), str(config)
    raise ModelError(
        f"nothing says how pictures are scaled for {file}: it is no file of the registry; write {table} with lines "
        f"such as {_EXAMPLE} (grey levels 0..255), or put its {_CONFIG} beside it"
    )


def _of_config(file: Path) -> Preprocessing:
    """Read a preprocessor_config.json.

    Its resize rule is ignored: the rule crop was measured to be better for pictures of all shapes.
    """
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
        table = {"mean": [level / factor for level in mean], "std": [level / factor for level in std]}
    size = values.get("crop_size") if values.get("do_center_crop") else values.get("size")
    if isinstance(size, dict):
        height = size.get("height", size.get("shortest_edge"))
        size = [size.get("width", height), height]
    if size is not None:
        table["size"] = size
    return preprocessing_from(table, str(file))
