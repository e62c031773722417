"""Which value of a setting counts where several are given: flag > --set > --config > kept in OUT/run.toml > default.

A `--config` replaces all kept values. A level that gives `variance` or `components` removes the other one of the lower
levels; a level that gives both is an error. So is a setting features.* of a call whose features are the pixels.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bigcluster.config.checks import PIXELS, are_vectors
from bigcluster.config.ks import AUTO
from bigcluster.config.schema import KEYS, Settings, settings_from
from bigcluster.errors import ConfigError
from bigcluster.files.bounded import SETTINGS_BYTES, read_bounded
from bigcluster.files.paths import local_path
from bigcluster.files.toml import parse_toml
from bigcluster.units import quoted

Values = dict[str, Any]

_PACKAGE = Path(__file__).parents[1]
RUN_ONLY = ("memory", "threads", "workers", "scheduler")
"""These arguments only schedule a run. They are never kept, and a --config file or --set may not hold them."""

_OTHER_NAMES = {"random_state": "seed", "n_clusters": "k", "n_components": "components"}
"""Names that scikit-learn uses, and what they are called here."""
_K, _ALGORITHM, _LEIDEN, _RESOLUTION = "k", "algorithm", "leiden", "resolution"
FEATURES, SOURCE = "features", "source"
"""`features = "gray"` stands in a table of TOML as `[features]` with `source = "gray"`, beside `layer` and the like."""


def shipped_configs() -> dict[str, Path]:
    """Return the configs that come with the package, by name. In a checkout they lie beside the package."""
    installed = _PACKAGE / "configs"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def resolve(*, flags: Values, sets: Iterable[str], config: str | None, kept: Values | None) -> Settings:
    """Merge the levels, check every value, and build the settings.

    flags : dict, values by dotted name; None counts as not given. sets : texts KEY=VALUE. config : a TOML file or the
    name of a shipped config, or None. kept : dict, the values that OUT/run.toml holds, or None. Raises ConfigError.
    """
    below = read_config(config) if config is not None else dict(kept or {})
    levels = [below, _checked(parse_sets(sets)), _checked({k: v for k, v in flags.items() if v is not None})]
    merged: Values = {"variance": KEYS["variance"].default}
    chooses_rank = False
    for level in levels:
        chooses_rank = chooses_rank or level.get("variance") is not None or level.get("components") is not None
        _merge(merged, level)
    features = merged.get(FEATURES, KEYS[FEATURES].default)
    if features in PIXELS or are_vectors(features):
        _drop_embedding(merged, features, levels[1:] if config is None else levels)
    if features not in PIXELS and not chooses_rank:
        merged["variance"] = None  # the plan takes planning.stages.EMBEDDING_COMPONENTS
    _choose_groups(merged, levels[1] | levels[2])
    settings = settings_from(merged)
    _check_groups(settings, levels[1:])
    return settings


def _choose_groups(merged: Values, given: Values) -> None:
    """Let a number of clusters of this call end a lower level's algorithm = leiden, and the other way round.

    given : the values of this call.
    """
    if given.get(_K, AUTO) != AUTO and _ALGORITHM not in given and merged.get(_ALGORITHM) == _LEIDEN:
        del merged[_ALGORITHM]
    if given.get(_ALGORITHM) == _LEIDEN and _K not in given:
        merged.pop(_K, None)


def _check_groups(settings: Settings, given: list[Values]) -> None:
    """Raise ConfigError where leiden gets a number of clusters or has nothing to compare, and for a resolution of this
    call without leiden. given : the levels of this call."""
    if settings.algorithm == _LEIDEN and settings.k != AUTO:
        raise ConfigError(
            f"k = {settings.k} and algorithm = leiden exclude each other: leiden finds the number of groups itself; "
            "leave out k, and give --set resolution=2 for more groups or 0.5 for fewer"
        )
    if settings.finds_communities and settings.reduce == "none" and settings.has_pixel_features:
        raise ConfigError("algorithm = leiden compares scores, and reduce = none leaves the pixels; use reduce = pca")
    if not settings.finds_communities:
        default = KEYS[_RESOLUTION].default
        for level in given:
            if level.get(_RESOLUTION, default) != default:
                raise ConfigError(
                    f"resolution = {level[_RESOLUTION]:g} is for groups without a number, and k-means clusters here; "
                    "give -k auto with --features, or leave resolution out"
                )


def _drop_embedding(merged: Values, features: str, given: list[Values]) -> None:
    """Remove the settings features.* that have no effect, which an earlier run with a network has stored.

    features : the value of `features`, which names pixels or vectors; `features.normalize` has an effect on vectors.
    given : the levels of this call. Raises ConfigError where one of them has a setting without effect.
    """
    kind = "the pixels themselves" if features in PIXELS else "vectors as they are"
    used = () if features in PIXELS else (f"{FEATURES}.normalize",)
    idle = [name for name in KEYS if name.startswith(f"{FEATURES}.") and name not in used]
    for level in given:
        for name in idle:
            if level.get(name, KEYS[name].default) != KEYS[name].default:
                raise ConfigError(
                    f"{name} = {level[name]} is for a network, and features = {features} are {kind}; give "
                    f"--features mobilenetv2, or leave {name} out"
                )
    for name in idle:
        merged.pop(name, None)


def _merge(merged: Values, level: Values) -> None:
    if level.get("variance") is not None and level.get("components") is not None:
        raise ConfigError(
            f"variance = {level['variance']} and components = {level['components']} exclude each other; give one"
        )
    for name, dropped in (("variance", "components"), ("components", "variance")):
        if level.get(name) is not None:
            merged[dropped] = None
    merged.update({name: value for name, value in level.items() if value is not None})


def parse_sets(sets: Iterable[str]) -> Values:
    """Read texts KEY=VALUE: ["kmeans.n_init=8"] -> {"kmeans.n_init": 8}. A value that is not TOML is plain text."""
    values: Values = {}
    for item in sets:
        name, equals, literal = item.partition("=")
        if not equals:
            raise ConfigError(f"--set needs KEY=VALUE, such as kmeans.n_init=8; got {item!r}")
        values[name.strip()] = _value_of(literal)
    return values


def _value_of(literal: str) -> Any:
    try:
        read = parse_toml(f"value = {literal}")
    except ValueError:  # this is not TOML, or a number of thousands of digits
        return literal.strip()
    return read["value"] if len(read) == 1 else literal.strip()


def read_config(name_or_file: str) -> Values:
    """Read and check the values of a TOML file, or of a shipped config by its name. Raises ConfigError."""
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
    """Read and check the values of a TOML file, by dotted name. Raises ConfigError with the file in its message."""
    try:
        values = _dotted(parse_toml(read_bounded(path, SETTINGS_BYTES, follow=True).decode()))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the config {path} is not valid TOML of settings: {error}") from error
    return _checked(values)


def _dotted(tables: Mapping[str, Any], prefix: str = "") -> Values:
    """Nested tables of TOML as one dict with dotted names."""
    values: Values = {}
    for name, value in tables.items():
        if prefix + name == f"{FEATURES}.{SOURCE}":
            values[FEATURES] = value
        elif isinstance(value, dict):
            values |= _dotted(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def _checked(values: Values) -> Values:
    return {name: known(name).check(name, value) for name, value in values.items()}


def known(name: str) -> Any:
    """Return the key of this name. Raises ConfigError for an unknown name, with a similar name where there is one."""
    if name in KEYS:
        return KEYS[name]
    if name in RUN_ONLY:
        raise ConfigError(f"{name} belongs to one call, not to a config: give it as --{name}")
    names = _OTHER_NAMES | {key.rpartition(".")[2]: key for key in KEYS} | {key: key for key in KEYS}
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {names[near[0]]!r}?" if near else "README.md has a table of all keys"
    raise ConfigError(f"unknown key {quoted(name)}; {hint}")


def to_toml(values: Mapping[str, Any]) -> str:
    """Return TOML text for values by dotted name, with one table per section. Values that are None are left out."""
    lines: list[str] = []
    section = ""
    stored = {name: value for name, value in values.items() if value is not None}
    if any(name.startswith(f"{FEATURES}.") for name in stored) and FEATURES in stored:
        source = stored.pop(FEATURES)
        at = next(i for i, name in enumerate(stored) if name.startswith(f"{FEATURES}."))
        items = [*stored.items()]
        stored = dict([*items[:at], (f"{FEATURES}.{SOURCE}", source), *items[at:]])
    for name, value in stored.items():
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
