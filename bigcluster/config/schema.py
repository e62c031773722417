"""All settings: their defaults, their valid values and what they are for.

The dataclasses below are the only list of the settings. The command line, TOML files, `--set`, run.toml and the table
in README are made from this list or checked against it.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any

from bigcluster.config.checks import (
    PIXELS,
    Check,
    encoding,
    fraction,
    image_size,
    input_size,
    not_negative,
    one_of,
    optional,
    path,
    patterns,
    positive,
    seconds,
    source_of_features,
    text,
    whole_number,
    yes_or_no,
)
from bigcluster.config.ks import AUTO, auto_ks, clusters, parse_ks


def key(default: Any, check: Check, doc: str) -> Any:
    """Declare a setting.

    check : function of (name, value) that returns the value in its one canonical form, or raises ConfigError.
    doc : str, what the setting decides, for README.
    """
    return field(default=default, metadata={"check": check, "doc": doc})


@dataclass(frozen=True)
class ImageSettings:
    """How an image file becomes pixels."""

    fit: str = key(
        "stretch",
        one_of("stretch", "pad", "crop"),
        "how an image takes the target size: stretch it, pad it with white, or crop its middle",
    )
    normalize: str = key(
        "none",
        one_of("none", "image"),
        "image removes each image's own mean and scale, so that overall darkness does not decide",
    )
    max_pixels: int = key(
        250_000_000,
        whole_number(1),
        "larger images are not decoded (status too_large): a guard against decompression bombs",
    )
    timeout: float = key(
        30.0, seconds, "seconds after which reading and decoding one image is given up (status timeout)"
    )


@dataclass(frozen=True)
class ManifestSettings:
    """How a CSV or Parquet file of images is read."""

    allow_outside: bool = key(
        False,
        yes_or_no,
        "whether a manifest may name files outside its own folder (a manifest may come from a stranger)",
    )
    encoding: str = key(
        "auto",
        encoding,
        "the encoding of a CSV manifest; auto is UTF-8 or what its byte order mark says, and paths of any bytes",
    )


@dataclass(frozen=True)
class EmbeddingSettings:
    """How a network turns an image into features, and what is done with features that are not pixels.

    The settings are called features.NAME.
    """

    size: str | None = key(
        None,
        optional(input_size),
        "the size of the network's input where it has a choice: 128 or WIDTHxHEIGHT",
    )
    layer: str | None = key(
        None,
        optional(text),
        "the tensor of the network that is taken (`bigcluster models show NAME` lists them)",
    )
    pool: str | None = key(
        None,
        optional(one_of("avg", "max", "gem", "flatten", "cls", "mean")),
        "how a map (avg, max, gem, flatten) or tokens (cls, mean) become one vector; default: that of the network",
    )
    resize: str | None = key(
        None,
        optional(one_of("crop", "squash", "pad")),
        "how an image takes the input size: crop its middle, squash or pad it; default: that of the network",
    )
    gray: bool = key(False, yes_or_no, "whether the network sees images in gray, as three equal channels")
    normalize: str = key(
        "l2",
        one_of("l2", "none"),
        "l2 scales the features of every image to the length 1, and its PCA scores too; pixels are never scaled",
    )
    classes: int = key(
        0, whole_number(0), "write this number of the most probable classes of each image to classes.csv (0: none)"
    )


@dataclass(frozen=True)
class ModelsSettings:
    """Where networks come from."""

    offline: bool = key(
        False, yes_or_no, "whether networks are never downloaded: only files that are there already are used"
    )


@dataclass(frozen=True)
class PCASettings:
    """How the PCA is fitted."""

    solver: str = key(
        "auto",
        one_of("auto", "gram", "covariance", "subspace", "incremental"),
        "auto chooses by number and size of the images; incremental is dask-ml's IncrementalPCA",
    )
    iterated_power: int = key(
        2, whole_number(0), "power iterations of the incremental solver; with 0 its components are inaccurate"
    )


MANIFOLDS = ("tsne", "umap")
"""The values of `reduce` that reduce the PCA scores once more."""


@dataclass(frozen=True)
class ManifoldSettings:
    """How t-SNE and UMAP are fitted."""

    neighbors: int = key(
        30,
        whole_number(2),
        "how many neighbors of an image count: the perplexity of tsne, n_neighbors of umap; with few images fewer",
    )
    sample: int = key(
        10_000,
        whole_number(4),
        "tsne and umap are fitted on up to this many images, and the others are placed among them",
    )


@dataclass(frozen=True)
class GemmSettings:
    """How matrices are multiplied (GEMM: general matrix multiplication)."""

    kernel: str = key(
        "auto",
        one_of("auto", "integer", "float32"),
        "how 8-bit pixels are multiplied: integer is fast, float32 runs on any machine; both are exact and the same",
    )


@dataclass(frozen=True)
class KMeansSettings:
    """How k-means is fitted."""

    algorithm: str = key(
        "auto",
        one_of("auto", "lloyd", "minibatch", "two-level", "dask-ml"),
        "auto chooses by number of images, components and clusters; dask-ml is its k-means||, repaired",
    )
    n_init: int = key(
        4,
        whole_number(1, auto=4),
        "fits from different first centers, of which the smallest inertia wins (a sweep finishes two)",
    )
    max_iter: int = key(300, whole_number(1), "the most Lloyd iterations of a fit")
    tol: float = key(
        1e-4, not_negative, "a fit stops when the centers move less than this, relative to the mean variance"
    )


@dataclass(frozen=True)
class ClusterSettings:
    """How a dask cluster is joined. These settings change no result."""

    min_workers: int = key(1, whole_number(1), "the number of workers of a cluster that a run waits for at its start")
    patience: float = key(
        120.0, seconds, "seconds for which a lost scheduler, or workers that are missing, are waited for"
    )
    tls_ca: str | None = key(None, optional(path), "the certificate of the authority, for a scheduler at tls://")
    tls_cert: str | None = key(None, optional(path), "the certificate of this run, for a scheduler at tls://")
    tls_key: str | None = key(None, optional(path), "the private key of that certificate")


@dataclass(frozen=True)
class ReportSettings:
    """What the report shows."""

    write: bool = key(
        True, yes_or_no, "whether a run ends with writing report/; `bigcluster report OUT` writes it at any time"
    )
    map: str = key(
        "pca",
        one_of("pca", "tsne", "umap", "none"),
        "the map of the report: pca (the first two components), tsne or umap (with the extra of that name), or none",
    )
    thumbnails: int = key(
        20_000,
        whole_number(1),
        "up to this many images all have thumbnails in the report; of more images, the nearest of each cluster",
    )


@dataclass(frozen=True)
class Settings:
    """All that decides the result: the same settings on the same images give the same labels. OUT/run.toml has them."""

    images: str | None = key(
        None, optional(path), "the images: a folder, a glob, or a CSV or Parquet manifest with a path column"
    )
    out: str | None = key(None, optional(path), "the folder for the results")
    exclude: tuple[str, ...] = key(
        (),
        patterns,
        "patterns of files and folders that are not listed; a pattern is of names, or with a slash of whole paths",
    )
    features: str = key(
        "gray",
        source_of_features,
        "what describes an image: gray or color pixels, a network by name or .onnx file, or your own vectors",
    )
    size: str = key(
        "64x64",
        image_size,
        "the size that images are resized to: 64, WIDTHxHEIGHT, or native (all images have one size)",
    )
    reduce: str = key(
        "pca",
        one_of("pca", *MANIFOLDS, "none"),
        "how images are reduced: pca; then by tsne or umap (with the extra of that name); none: as they are",
    )
    variance: float | None = key(
        0.8,
        optional(fraction),
        "keep the fewest components that explain this share of the variance (of a network or vectors: 64 components)",
    )
    components: int | None = key(
        None, optional(whole_number(1)), "keep exactly this number of components (instead of variance)"
    )
    k: int | str = key(
        AUTO,
        clusters,
        "the number of clusters, or a range (5:20, 10:100:10, 5,9,17) to sweep and choose from; auto finds groups",
    )
    algorithm: str = key(
        "auto",
        one_of("auto", "kmeans", "leiden"),
        "kmeans, or leiden: communities of nearest neighbors, without a k; auto is leiden for k = auto on features",
    )
    resolution: float = key(
        1.0,
        positive,
        "for leiden: above 1 gives more and smaller groups, below 1 fewer and larger ones",
    )
    seed: int = key(0, whole_number(0), "the seed of all random choices")
    link: str = key(
        "hardlink",
        one_of("hardlink", "symlink", "copy", "none"),
        "how images appear under clusters/: hardlink (a relative symlink across file systems), symlink, copy or none",
    )
    image: ImageSettings = field(default_factory=ImageSettings)
    embedding: EmbeddingSettings = field(default_factory=EmbeddingSettings, metadata={"section": "features"})
    models: ModelsSettings = field(default_factory=ModelsSettings)
    manifest: ManifestSettings = field(default_factory=ManifestSettings)
    pca: PCASettings = field(default_factory=PCASettings)
    manifold: ManifoldSettings = field(default_factory=ManifoldSettings)
    gemm: GemmSettings = field(default_factory=GemmSettings)
    kmeans: KMeansSettings = field(default_factory=KMeansSettings)
    report: ReportSettings = field(default_factory=ReportSettings)
    cluster: ClusterSettings = field(default_factory=ClusterSettings)

    @property
    def has_pixel_features(self) -> bool:
        """Whether the pixels themselves describe an image."""
        return self.features in PIXELS

    @property
    def finds_communities(self) -> bool:
        """Whether the clusters are communities of the graph of neighbors, whose number is not given."""
        if self.algorithm == "auto":
            return self.k == AUTO and not self.has_pixel_features
        return self.algorithm == "leiden"

    @property
    def has_pca(self) -> bool:
        """Whether features are reduced to PCA scores, from which tsne and umap begin too."""
        return self.reduce != "none"

    @property
    def has_manifold(self) -> bool:
        """Whether the PCA scores are reduced once more, by t-SNE or UMAP."""
        return self.reduce in MANIFOLDS

    @property
    def ks(self) -> tuple[int, ...]:
        """The numbers of clusters to try, in ascending order; empty where communities are found."""
        if self.finds_communities:
            return ()
        return auto_ks() if self.k == AUTO else parse_ks("k", self.k)

    def for_images(self, n_images: int) -> Settings:
        """Return the settings with the numbers of clusters that k = auto tries for so many images, where it tries any;
        else the same settings."""
        if self.k != AUTO or self.finds_communities:
            return self
        return replace(self, k=",".join(map(str, auto_ks(n_images))))


@dataclass(frozen=True)
class Key:
    """One setting under its dotted name, such as `image.fit`."""

    name: str
    default: Any
    check: Check
    doc: str


def _section(item: Field[Any]) -> str:
    """Return the first part of the names of the settings below a field: its metadata or its own name says it."""
    section: str = item.metadata.get("section", item.name)
    return section


def _keys(section: type, prefix: str = "") -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for item in fields(section):
        if "check" in item.metadata:
            name = prefix + item.name
            keys[name] = Key(name, item.default, item.metadata["check"], item.metadata["doc"])
        else:
            keys |= _keys(item.default_factory, _section(item) + ".")  # type: ignore[arg-type]
    return keys


KEYS: dict[str, Key] = _keys(Settings)


def settings_from(values: dict[str, Any]) -> Settings:
    """Build the settings from checked values by dotted name. Names that are absent take their defaults."""

    def build(section: type, prefix: str) -> Any:
        arguments: dict[str, Any] = {}
        for item in fields(section):
            if "check" not in item.metadata:
                arguments[item.name] = build(item.default_factory, _section(item) + ".")  # type: ignore[arg-type]
            elif prefix + item.name in values:
                value = values[prefix + item.name]
                arguments[item.name] = tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        return section(**arguments)

    settings: Settings = build(Settings, "")
    return settings


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of settings by dotted name, in the order of the dataclasses. Values may be None."""
    flat: dict[str, Any] = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            flat |= flatten(value, prefix + _section(item) + ".")
        else:
            flat[prefix + item.name] = value
    return flat
