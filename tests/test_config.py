"""Which value of a setting counts, what is refused, and the configs that are shipped."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st

from bigcluster.config import (
    KEYS,
    PIXELS,
    are_vectors,
    flatten,
    read_toml,
    resolve,
    settings_from,
    shipped_configs,
    to_toml,
)
from bigcluster.errors import ConfigError
from bigcluster.files.paths import is_url
from bigcluster.units import parse_bytes, show_bytes

share = st.floats(0.01, 1)
any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
any_path = any_text.filter(lambda text: "\0" not in text and not is_url(text))
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "images": any_path,
    "out": any_path,
    "exclude": st.lists(st.text(min_size=1, max_size=9), max_size=3).map(tuple),
    "features": st.sampled_from(["gray", "color", "mobilenetv2", "nets/own.onnx", "column:vector", "v.npy"]),
    "size": st.one_of(st.just("native"), st.builds("{}x{}".format, st.integers(1, 99_999), st.integers(1, 99_999))),
    "reduce": st.sampled_from(["pca", "none"]),
    "variance": share,
    "components": st.integers(1, 10_000),
    "k": st.integers(1, 10_000),
    "algorithm": st.sampled_from(["auto", "kmeans", "leiden"]),
    "resolution": st.floats(1e-9, 1e9),
    "seed": st.integers(0, 2**63 - 1),
    "link": st.sampled_from(["hardlink", "symlink", "copy", "none"]),
    "image.fit": st.sampled_from(["stretch", "pad", "crop"]),
    "image.normalize": st.sampled_from(["none", "image"]),
    "image.max_pixels": st.integers(1, 10**12),
    "image.timeout": st.floats(0.1, 86_400, allow_nan=False),
    "features.size": st.builds("{}x{}".format, st.integers(1, 9_999), st.integers(1, 9_999)),
    "features.layer": st.sampled_from(["block_13/add", "last_hidden_state"]),
    "features.pool": st.sampled_from(["avg", "max", "gem", "flatten", "cls", "mean"]),
    "features.resize": st.sampled_from(["crop", "squash", "pad"]),
    "features.gray": st.booleans(),
    "features.normalize": st.sampled_from(["l2", "none"]),
    "features.classes": st.integers(0, 100),
    "models.offline": st.booleans(),
    "manifest.allow_outside": st.booleans(),
    "manifest.encoding": st.sampled_from(["auto", "utf-8", "cp1252", "utf-16", "shift_jis"]),
    "pca.solver": st.sampled_from(["auto", "gram", "covariance", "subspace", "incremental"]),
    "manifold.neighbors": st.integers(2, 1000),
    "manifold.sample": st.integers(4, 10**9),
    "gemm.kernel": st.sampled_from(["auto", "integer", "float32"]),
    "pca.iterated_power": st.integers(0, 20),
    "kmeans.algorithm": st.sampled_from(["lloyd", "dask-ml"]),
    "kmeans.n_init": st.integers(1, 100),
    "kmeans.max_iter": st.integers(1, 1000),
    "kmeans.tol": st.floats(0, 1e300, allow_nan=False),
    "report.write": st.booleans(),
    "report.map": st.sampled_from(["pca", "tsne", "umap", "none"]),
    "report.thumbnails": st.integers(1, 10**9),
    "cluster.min_workers": st.integers(1, 10**6),
    "cluster.patience": st.floats(0.1, 86_400, allow_nan=False),
    "cluster.tls_ca": st.just("/certificates/ca.pem"),
    "cluster.tls_cert": st.just("/certificates/cert.pem"),
    "cluster.tls_key": st.just("/certificates/key.pem"),
}
OF_NETWORKS = [name for name in VALUES if name.startswith("features.")]
EXCLUDING = ("variance", "components", "algorithm", "resolution")
"""Settings that exclude others. tests/test_groups.py has the law of the last two."""
INDEPENDENT = [name for name in VALUES if name not in EXCLUDING]


def level() -> st.SearchStrategy[dict[str, Any]]:
    """Some settings with valid values; never variance and components together."""
    others = st.fixed_dictionaries({}, optional={name: VALUES[name] for name in INDEPENDENT})
    rank = st.one_of(
        st.just({}), share.map(lambda v: {"variance": v}), st.integers(1, 999).map(lambda n: {"components": n})
    )
    return st.builds(lambda some, one: some | one, others, rank)


def any_level() -> st.SearchStrategy[dict[str, Any]]:
    """The same, with the settings of groups as well."""
    groups = st.fixed_dictionaries({}, optional={name: VALUES[name] for name in ("algorithm", "resolution")})
    return st.builds(lambda some, more: some | more, level(), groups)


def write_toml(folder: Path, values: dict[str, Any]) -> Path:
    path = folder / "given.toml"
    path.write_text(to_toml({name: values[name] for name in KEYS if name in values}), encoding="utf-8")
    return path


def test_the_strategies_know_every_key() -> None:
    assert set(VALUES) == set(KEYS), "a new key wants a strategy in VALUES"


@given(any_level())
def test_toml_gives_back_every_value(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    assert read_toml(write_toml(tmp_path_factory.mktemp("toml"), values)) == values


@given(any_level())
def test_flat_settings_build_the_same_settings(values: dict[str, Any]) -> None:
    settings = settings_from(values)
    assert settings_from(flatten(settings)) == settings
    assert {name: flatten(settings)[name] for name in values} == values


def literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return to_toml({"value": value}).removeprefix("value = ").rstrip("\n")
    return repr(value)


def as_sets(values: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{n}={v}" if isinstance(v, str) else f"{n}={literal(v)}" for n, v in values.items())


plain_level = level().map(lambda values: {n: v for n, v in values.items() if n not in ("images", "out")})


@given(level(), plain_level, level(), level(), st.booleans())
def test_flag_beats_set_beats_config_beats_kept_beats_default(
    tmp_path_factory: pytest.TempPathFactory,
    flags: dict[str, Any],
    sets: dict[str, Any],
    config: dict[str, Any],
    kept: dict[str, Any],
    with_config: bool,
) -> None:
    file = str(write_toml(tmp_path_factory.mktemp("levels"), config)) if with_config else None
    levels = [flags, sets, config if with_config else kept]  # a config replaces the kept values whole
    source = next((values["features"] for values in levels if "features" in values), "gray")
    of_this_call = levels if with_config else levels[:2]
    used = {"features.normalize"} if are_vectors(source) else set()  # vectors can be normalized
    idle = set(OF_NETWORKS) - used if source in PIXELS or are_vectors(source) else set()
    if any(name in idle and v != KEYS[name].default for values in of_this_call for name, v in values.items()):
        with pytest.raises(ConfigError, match=r"^features\.\w+ = .* is for a network"):
            resolve(flags=flags, sets=as_sets(sets), config=file, kept=kept)
        return
    found = flatten(resolve(flags=flags, sets=as_sets(sets), config=file, kept=kept))
    for name in INDEPENDENT:
        expected = next((values[name] for values in levels if name in values), KEYS[name].default)
        if name in idle:
            expected = KEYS[name].default  # what an earlier run with a network has left counts for nothing
        assert found[name] == expected, name
    # The highest level that gives one of the two decides, and drops the other below it.
    default = {"variance": 0.8} if found["features"] in PIXELS else {}  # features of a network have 64 components
    top = next((values for values in levels if {"variance", "components"} & set(values)), default)
    assert (found["variance"], found["components"]) == (top.get("variance"), top.get("components"))


@pytest.mark.parametrize("where", ["flags", "sets", "config", "kept"])
def test_variance_and_components_at_one_level_are_refused(tmp_path: Path, where: str) -> None:
    both = {"variance": 0.5, "components": 7}
    levels: dict[str, Any] = {"flags": {}, "sets": (), "config": None, "kept": None}
    levels[where] = {"flags": both, "sets": as_sets(both), "config": str(write_toml(tmp_path, both)), "kept": both}[
        where
    ]
    with pytest.raises(ConfigError, match=r"variance = 0\.5 and components = 7 exclude each other"):
        resolve(**levels)


@pytest.mark.parametrize(
    ("given_name", "nearest"),
    [("varience", "variance"), ("component", "components"), ("kmeans.ninit", "kmeans.n_init"), ("fit", "image.fit"),
     ("image.normalise", "image.normalize"), ("sizes", "size"), ("n_init", "kmeans.n_init"), ("random_state", "seed"),
     ("zzzz", None)],
)  # fmt: skip
@pytest.mark.parametrize("where", ["flags", "sets", "config"])
def test_an_unknown_key_names_the_nearest(tmp_path: Path, where: str, given_name: str, nearest: str | None) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f"{given_name} = 1\n")
    levels: dict[str, Any] = {"flags": {}, "sets": (), "config": None, "kept": None}
    levels[where] = {"flags": {given_name: 1}, "sets": (f"{given_name}=1",), "config": str(config)}[where]
    with pytest.raises(ConfigError, match=f"unknown key '{given_name}'") as caught:
        resolve(**levels)
    said = str(caught.value)
    assert said.endswith(f"did you mean '{nearest}'?" if nearest else "README.md has a table of all keys")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "") for name in KEYS),
        *((name, [1]) for name in KEYS),
        *((name, math.nan) for name in KEYS),
        *(("variance", value) for value in (0, -1, 1.0001, True, "0.8", math.inf)),
        *(("k", value) for value in (0, -1, 2.5, True, "ten", "20:5", "5:", "5:20:0")),
        *(
            ("size", value)
            for value in (0, -64, "0x64", "64x", "x64", "64 x 64", "64x64x3", 64.0, True, "Native", "64\n")
        ),
        *(("seed", value) for value in (-1, 0.5)),
        *(("kmeans.tol", value) for value in (-1e-9, math.inf, True)),
        ("manifest.allow_outside", 1),
        ("manifest.allow_outside", "true"),
        *(("manifest.encoding", value) for value in ("latin-17", "hex", "rot13", "base64", "utf\0", "undefined", 8)),
        *(("features", value) for value in ("column:", " ", "a\nb", 3)),
        *(("features.size", value) for value in ("native", 0, "64x")),
        *(("features.pool", value) for value in ("none", "sum")),
    ],
)
def test_bad_values_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} "):
        resolve(flags={name: value}, sets=(), config=None, kept=None)


@pytest.mark.parametrize(
    ("given_size", "canonical"),
    [(64, "64x64"), ("64", "64x64"), ("300X430", "300x430"), ((300, 430), "300x430"), ([3, 4], "3x4")],
)
def test_sizes_have_one_form(given_size: Any, canonical: str) -> None:
    assert resolve(flags={"size": given_size}, sets=(), config=None, kept=None).size == canonical


@pytest.mark.parametrize("name", ["memory", "threads", "workers", "scheduler"])
def test_what_schedules_a_run_is_no_setting(tmp_path: Path, name: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(f'{name} = "1GiB"\n')
    with pytest.raises(ConfigError, match=f"--{name}"):
        resolve(flags={}, sets=(), config=str(config), kept=None)


@pytest.mark.parametrize("text", ["k = ", "k = 1\nk = 2\n", "\ufeff\0", "[a\n"])
def test_broken_toml_is_refused(tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"not valid TOML"):
        resolve(flags={}, sets=(), config=str(config), kept=None)


def test_an_unknown_config_names_those_shipped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="catalog, cluster, dask-ml, thumbnails"):
        resolve(flags={}, sets=(), config="catalogue", kept=None)
    with pytest.raises(ConfigError, match="No such file"):
        resolve(flags={}, sets=(), config=str(tmp_path / "nowhere.toml"), kept=None)


def test_a_set_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        resolve(flags={}, sets=("k",), config=None, kept=None)


CONFIGS = sorted(CHECKOUT.glob("configs/*.toml"))


def test_every_config_in_the_checkout_is_shipped() -> None:
    assert len(CONFIGS) >= 3
    assert {path.resolve() for path in shipped_configs().values()} == set(CONFIGS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_complete(path: Path) -> None:
    settings = resolve(flags={"images": "images", "out": "out"}, sets=(), config=path.stem, kept=None)
    assert settings.k is not None, "a shipped config runs as it is"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_key_of_a_shipped_config_has_its_reason(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# "), "the first line says what the config is for"
    keys = [number for number, line in enumerate(lines) if "=" in line and not line.startswith("#")]
    assert len(keys) == sum(len(v) if isinstance(v, dict) else 1 for v in tomllib.loads("\n".join(lines)).values())
    for number in keys:
        assert lines[number - 1].startswith("# "), f"{path.name}:{number + 1} has no comment line above it"


@given(st.integers(0, 2**60))
def test_shown_bytes_are_near_and_readable(n_bytes: int) -> None:
    shown = show_bytes(n_bytes)
    if n_bytes >= 1:
        assert parse_bytes(shown) == pytest.approx(n_bytes, rel=0.01, abs=1)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("512MiB", 512 * 2**20), ("1.5GiB", 3 * 2**29), (" 2 gib ", 2**31), ("1GB", 10**9), ("7B", 7), ("1TiB", 2**40)],
)
def test_sizes_of_memory(text: str, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "512", "GiB", "-1GiB", "1 potato", "1e9B", "1.GiB", "inf GiB"])
def test_memory_without_a_unit_or_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="memory"):
        parse_bytes(text)
