"""Which value of a setting counts: flag > --set > --config > what OUT/run.toml kept > default.

`--config` replaces the kept values whole. A level that gives `variance` or `components` drops the other one below it;
both at one level is an error.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bigcluster.config.schema import KEYS, Settings, settings_from
from bigcluster.errors import ConfigError
from bigcluster.files.bounded import SETTINGS_BYTES, read_bounded
from bigcluster.files.paths import local_path
from bigcluster.units import shown

Values = dict[str, Any]

_PACKAGE = Path(__file__).parents[1]
RUN_ONLY = ("memory", "workers", "scheduler")
"""They schedule a run and are never kept; a --config file or --set may not hold them."""

_OTHER_NAMES = {"random_state": "seed", "n_clusters": "k", "n_components": "components"}
"""As scikit-learn calls them."""


def shipped_configs() -> dict[str, Path]:
    """Name -> file of the configs that come with the package (beside it in a checkout)."""
    installed = _PACKAGE / "configs"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def resolve(*, flags: Values, sets: Iterable[str], config: str | None, kept: Values | None) -> Settings:
    """Merge the levels, lowest first, check every value, and build the settings."""
    below = read_config(config) if config is not None else dict(kept or {})
    merged: Values = {"variance": KEYS["variance"].default}
    for level in (below, _checked(parse_sets(sets)), _checked({k: v for k, v in flags.items() if v is not None})):
        _merge(merged, level)
    return settings_from(merged)


def _merge(merged: Values, level: Values) -> None:
    if level.get("variance") is not None and level.get("components") is not None:
        raise ConfigError(
            f"variance = {level['variance']} and components = {level['components']} exclude each other; give one"
        )
    for given, dropped in (("variance", "components"), ("components", "variance")):
        if level.get(given) is not None:
            merged[dropped] = None
    merged.update({name: value for name, value in level.items() if value is not None})


def parse_sets(sets: Iterable[str]) -> Values:
    """`["kmeans.n_init=8"]` -> {"kmeans.n_init": 8}. Values are read as TOML, or else as plain text."""
    values: Values = {}
    for item in sets:
        name, equals, literal = item.partition("=")
        if not equals:
            raise ConfigError(f"--set needs KEY=VALUE, such as kmeans.n_init=8; got {item!r}")
        values[name.strip()] = _value_of(literal)
    return values


def _value_of(literal: str) -> Any:
    try:
        read = tomllib.loads(f"value = {literal}")
    except (ValueError, RecursionError):  # ValueError: no TOML, or a number of thousands of digits
        return literal.strip()
    return read["value"] if len(read) == 1 else literal.strip()


def read_config(name_or_file: str) -> Values:
    """The checked values of a TOML file, or of a shipped config by its name."""
    shipped = shipped_configs()
    path = Path(local_path("--config", name_or_file))
    if path.suffix != ".toml" and not path.is_file():
        if name_or_file not in shipped:
            raise ConfigError(
                f"no config named {name_or_file!r}; shipped are {', '.join(shipped)}, or give a .toml file"
            )
        path = shipped[name_or_file]
    return read_toml(path)


def read_toml(path: Path) -> Values:
    try:
        values = _dotted(tomllib.loads(read_bounded(path, SETTINGS_BYTES, follow=True).decode()))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the config {path} is not valid TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"the config {path} is not one of ours: its tables or lists are nested too deep") from error
    return _checked(values)


def _dotted(tables: Mapping[str, Any], prefix: str = "") -> Values:
    values: Values = {}
    for name, value in tables.items():
        if isinstance(value, dict):
            values |= _dotted(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def _checked(values: Values) -> Values:
    return {name: known(name).check(name, value) for name, value in values.items()}


def known(name: str) -> Any:
    """The key of that name; an unknown one is refused, with a valid name where one is near."""
    if name in KEYS:
        return KEYS[name]
    if name in RUN_ONLY:
        raise ConfigError(f"{name} belongs to one call, not to a config: give it as --{name}")
    names = _OTHER_NAMES | {key.rpartition(".")[2]: key for key in KEYS} | {key: key for key in KEYS}
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {names[near[0]]!r}?" if near else "README.md has a table of all keys"
    raise ConfigError(f"unknown key {shown(name)}; {hint}")


def to_toml(values: Mapping[str, Any]) -> str:
    """Dotted names and values -> TOML text with one table per section. None is left out."""
    lines: list[str] = []
    section = ""
    for name, value in values.items():
        if value is None:
            continue
        table, _, last = name.rpartition(".")
        if table != section:
            section = table
            lines += ["", f"[{section}]"]
        lines.append(f"{last} = {_literal(value)}")
    return "\n".join(lines).lstrip() + "\n"


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_literal, value))}]"
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in str(value))
    return f'"{escaped}"'
