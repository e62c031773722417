"""The form of every mark's payload: the keys that the program writes, and the types of their values.

Anybody can write a sealed mark. One whose payload lacks this form counts as absent, and its stage is computed anew; so
who uses a payload need not look at it again. Whether the arrays have the sizes that a payload says: see `extents`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from bigcluster.files.forms import (
    Check,
    dict_of,
    keys,
    list_of,
    number,
    one_of,
    optional,
    positive,
    printable_line,
    score,
    text,
    truth,
    whole,
)
from bigcluster.files.toml import parse_toml
from bigcluster.store import shapes
from bigcluster.store.fingerprints import fingerprint

GROUP = "store"
"""The block of the metadata mark of the group; those of arrays have the names of the arrays."""
MOST_VIEW_PIXELS = 4096
"""Pixels of a side of the second picture of a decode, at most: networks for photographs take 224 to 1,024."""
RESIZE_RULES = ("crop", "squash", "pad")
"""How the second picture takes its size (see `kernels.decode.View`)."""
_MOST_NUMBERS = 100_000
"""Numbers in a list of facts, at most, such as the inertia of every start. Chosen, not measured."""


def has_form(stage: str, block: str, mark_fingerprint: str, payload: dict[str, Any]) -> bool:
    """Whether a payload has the keys and types that this program writes into the mark of that stage and block.

    mark_fingerprint : the fingerprint in the mark. Any payload of a stage that is not described here has the form.
    """
    if stage == "recipe" and mark_fingerprint != fingerprint(stage="ingest", **payload):
        return False
    if stage in _OF_BLOCKS and block != "done":
        return _OF_BLOCKS[stage](payload)
    if stage == "metadata":
        return _is_metadata(payload, block)
    return stage not in _FORMS or _FORMS[stage](payload)


def _is_name(value: Any) -> bool:
    """Whether a value is the name of a file directly in OUT."""
    return type(value) is str and "/" not in value and value not in ("", ".", "..")


def _fact(value: Any) -> bool:
    if type(value) is list:
        return len(value) <= _MOST_NUMBERS and all(map(number, value))
    return value is None or type(value) is bool or number(value) or printable_line(value)


_FACTS = keys(
    {},
    dict.fromkeys(
        (
            *("solver", "n_iter", "converged", "passes", "bytes_read", "asked", "reason", "inertias"),
            *("modularity", "resolution", "n_neighbors", "metric"),
        ),
        _fact,
    ),
)
"""Facts of a stage that go into summary.json, beside its times and its memory."""

_is_block = keys({"start": whole(), "square_sum": whole(), "contents": text}, others=True)
"""Names and records are in the table for which the mark vouches. A later version may add values."""

_SILHOUETTE = "simplified_silhouette"
_SWEEP_ROW = keys(
    {
        **dict.fromkeys(("k", "smallest", "largest", "n_iter", "start"), whole()),
        **dict.fromkeys(("silhouette_sq", "stability"), score),
        "inertia": number,
    },
    dict.fromkeys((_SILHOUETTE, "silhouette"), score),  # the second is what earlier versions called the first
)
_SWEEP_KEYS = keys(
    {
        "rows": list_of(_SWEEP_ROW),
        "suggested_k": optional(whole(1)),
        "reason": printable_line,
        "facts": _FACTS,
    },
    {"of": text},
)


def _is_sweep(payload: Any) -> bool:
    if not _SWEEP_KEYS(payload):
        return False
    ks = [row["k"] for row in payload["rows"]]
    named = all((_SILHOUETTE in row) != ("silhouette" in row) for row in payload["rows"])
    is_ascending = ks[:1] > [0] and all(a < b for a, b in pairwise(ks))
    return named and is_ascending and payload["suggested_k"] in (None, *ks)


def _is_settings(value: Any) -> bool:
    """Whether a value is the text of run.toml, or "" as where a run did not come to its end."""
    if type(value) is not str:
        return False
    try:
        return type(parse_toml(value).get("images", "")) is str
    except ValueError:
        return False


_ARRAY_KEYS = keys({"shape": list_of(whole()), "dtype": printable_line, "chunks": list_of(whole(1))})


def _is_metadata(payload: Any, block: str) -> bool:
    if block == GROUP:
        return bool(payload == {"format": shapes.FORMAT})
    if not _ARRAY_KEYS(payload):
        return False
    try:
        shapes.check_array_text(metadata_text(payload))
    except (ValueError, TypeError, SyntaxError):  # numpy parses what stands in a dtype
        return False
    return True


def metadata_text(facts: dict[str, Any]) -> str:
    """The text of the metadata file of which a mark of the stage `metadata` has these facts."""
    if "format" in facts:
        return shapes.group_text()
    return shapes.array_text(facts["shape"], facts["dtype"], facts["chunks"])


def _is_place(value: Any) -> bool:
    """Whether a value is [file, byte at which an array begins in it]."""
    return type(value) is list and len(value) == 2 and text(value[0]) and whole()(value[1])


def _is_view(value: Any) -> bool:
    """Whether a value is [width, height, rule] of the second picture of each decode."""
    if type(value) is not list or len(value) != 3:
        return False
    return all(whole(1)(side) and side <= MOST_VIEW_PIXELS for side in value[:2]) and one_of(*RESIZE_RULES)(value[2])


_EMBEDDING_KEYS = keys(
    {
        **dict.fromkeys(("kind", "name"), printable_line),
        "fingerprint": text,
        "n_features": whole(1),
        **dict.fromkeys(("n_classes", "n_names"), whole()),
        "names": text,
        "dtype": one_of("uint8", "float32"),
        "unit_length": truth,
        "facts": dict_of(_fact),
    }
)


def _is_embedding(value: Any) -> bool:
    """Whether a value describes what made the features, with no more classes stored for an image than have names."""
    return _EMBEDDING_KEYS(value) and value["n_classes"] <= value["n_names"]


_RECIPE_KEYS = keys(
    {"width": whole(1), "height": whole(1)},
    {
        "color": truth,
        "fit": one_of("stretch", "pad", "crop"),
        "normalize": one_of("none", "image"),
        "max_pixels": whole(1),
        "view": _is_view,
        "embedding": _is_embedding,
    },
)


def _is_recipe(payload: Any) -> bool:
    """Whether a value says how pictures are decoded. A network has a second picture; pixels and vectors have none."""
    if not _RECIPE_KEYS(payload):
        return False
    kind, has_view = payload.get("embedding", {"kind": "pixels"})["kind"], "view" in payload
    if ("embedding" in payload) == (kind == "pixels"):
        return False
    return has_view if kind == "network" else not has_view or kind not in ("pixels", "vectors")


_CLUSTER_KEYS = keys(
    {
        **dict.fromkeys(("n_clusters", "n_columns"), whole(1)),
        **dict.fromkeys(("images", "features", "rows"), text),
        "reduction": one_of("none", "pca", "tsne", "umap"),
        "inertia": optional(number),
        "nearest_previous": optional(list_of(optional(whole()))),
        "facts": _FACTS,
    },
    {"algorithm": one_of("leiden")},
)


_METRIC = one_of("cosine", "euclidean")
_GROUP_FACTS = keys(
    {**dict.fromkeys(("modularity", "resolution"), number), "n_neighbors": whole(), "metric": _METRIC}, others=True
)
"""The facts of communities that predict and the summary use."""


def _is_clustered(payload: Any) -> bool:
    """Whether a value describes clusters. Those of k-means name no algorithm, as in earlier versions, and alone have an
    inertia."""
    if not _CLUSTER_KEYS(payload) or ("algorithm" in payload) != (payload["inertia"] is None):
        return False
    return "algorithm" not in payload or _GROUP_FACTS(payload["facts"])


_OF_BLOCKS: dict[str, Check] = {
    "ingest": _is_block,
    "retired": _is_block,
    "state": keys({"places": dict_of(_is_place), "facts": dict_of(lambda _: True)}),
}
_FORMS: dict[str, Check] = {
    "recipe": _is_recipe,
    "ingest": keys({"square_sum": whole(), "n_blocks": whole(1)}),
    "features": keys({"images": text}),
    "reduce": keys(
        {
            **dict.fromkeys(("rank", "n_components"), whole(1)),
            **dict.fromkeys(("passes", "bytes_read", "score_step"), number),
            "solver": printable_line,
            **dict.fromkeys(("images", "features"), text),
            "total_variance": positive,
            "components": one_of("stored", "left"),
        },
        {"batch_rows": whole(1)},
    ),
    "manifold": keys(
        {
            **dict.fromkeys(("n_columns", "neighbors", "n_fitted", "n_dimensions"), whole(1)),
            **dict.fromkeys(("images", "rows"), text),
            "solver": printable_line,
            "method": one_of("tsne", "umap"),
        }
    ),
    "neighbors": keys(
        {
            **dict.fromkeys(("images", "rows"), text),
            "metric": _METRIC,
            "n_neighbors": whole(),
            "facts": _FACTS,
        }
    ),
    "cluster": _is_clustered,
    "sweep": _is_sweep,
    "novelty": keys({"limit": positive}),
    "manifest": keys({"digests": list_of(text)}),
    "outputs": keys(
        {}, {"files": dict_of(text, _is_name), "before": dict_of(list_of(text), _is_name), "run.toml": _is_settings}
    ),
}
