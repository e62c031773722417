"""What is compared: plain data, made to be edited.

A family is one piece of work that its cases share; a case is one peer with its options. The case named OURS is what
the others are compared with, SCRIPT is what most people run today.
"""

from __future__ import annotations

from dataclasses import dataclass

OURS = "ours"
SCRIPT = "sklearn-script"


@dataclass(frozen=True)
class Images:
    """From a folder of images to labels."""

    n_images: int
    components: int
    clusters: int = 10
    shrink: tuple[int, int] | None = None
    """(width, height) of the files; None: 300x430, as drawn."""
    size: str = "native"
    """What ours is told to resize to. Anything but native has other pixels than the files: nothing to judge them by."""


@dataclass(frozen=True)
class Rows:
    """From rows in memory or in a store to labels, from the same first centers."""

    n_rows: int
    n_columns: int
    iterations: int = 20
    """0: until the starts have converged."""


@dataclass(frozen=True)
class Graph:
    """From rows in memory or in a store to the exact nearest neighbors of each, by cosine."""

    n_rows: int
    n_columns: int
    neighbors: int = 15


Work = Images | Rows | Graph


@dataclass(frozen=True)
class Case:
    name: str
    peer: str
    """A module of benchmarks.peers."""
    what: str
    options: tuple[str, ...] = ()
    slow: bool = False
    """Runs once, however many repeats were asked for."""
    on_scores: bool = False
    """Clusters the scores that OURS left, so it stands after OURS."""


@dataclass(frozen=True)
class RowCase(Case):
    k: int = 100


@dataclass(frozen=True)
class Family:
    name: str
    title: str
    work: dict[str, Work]
    """By scale."""
    cases: dict[str, tuple[Case, ...]]
    """By scale."""
    opt_in: bool = False
    """Runs only where --only names it."""


_SCRIPTS = (
    Case(SCRIPT, "sklearn_pca", "scikit-learn PCA(randomized) + KMeans over cv2.imread, float32 in memory"),
    Case("sklearn-incremental", "sklearn_incremental", "scikit-learn IncrementalPCA, batch 1,024", slow=True),
    Case("dask-ml-pca", "dask_ml_pca", "dask-ml PCA(randomized), KMeans", slow=True),
    Case("dask-ml-incremental", "dask_ml_incremental", "dask-ml IncrementalPCA, batch 1,024, KMeans", slow=True),
    Case("clustimage", "clustimage_job", "clustimage, 128x128, PCA 0.8", slow=True),
)


def _run(name: str, what: str, memory: str, *sets: str) -> Case:
    options = ["--memory", memory]
    for value in sets:
        options += ["--set", value]
    return Case(name, "ours", f"`bigcluster run --memory {memory}{what}`", tuple(options))


_OURS = (
    _run(OURS, "", "1GiB"),
    _run("ours-512MiB", "", "512MiB"),
    _run("ours-float32", " --set gemm.kernel=float32", "1GiB", "gemm.kernel=float32"),
)
_OURS_INCREMENTAL = _run("ours-incremental", " --set pca.solver=incremental", "1GiB", "pca.solver=incremental")

_SAME_SCORES = Case(
    "sklearn-on-our-scores",
    "kmeans_sklearn",
    "scikit-learn KMeans, 10 starts, on our scores (the fit alone)",
    ("--restarts", "10"),
    on_scores=True,
)

CATALOG = Family(
    name="catalog",
    title="From a folder of catalog cuts to labels",
    work={
        "small": Images(n_images=1000, components=64, shrink=(150, 215)),
        "full": Images(n_images=8190, components=800),
    },
    cases={
        "small": (*_OURS, _OURS_INCREMENTAL, _SAME_SCORES, *_SCRIPTS),
        # ours-incremental at 1 GiB holds neither 800 components nor a batch of as many rows
        "full": (*_OURS, _SAME_SCORES, *_SCRIPTS),
    },
)

LARGE = Family(
    name="large",
    title="100,000 catalog cuts within 1 GiB",
    work={"full": Images(n_images=100_000, components=800)},
    cases={"full": (_run(OURS, "", "1GiB"), _run("ours-608MiB", "", "608MiB"))},
    opt_in=True,
)

THUMBS = Family(
    name="thumbs",
    title="100,000 pictures at 64x64",
    work={"full": Images(n_images=100_000, components=100, size="64")},
    cases={"full": (_run(OURS, " --size 64", "1GiB"),)},
    opt_in=True,
)


def _kmeans_peers(k: int, *, dask_ml: bool) -> tuple[RowCase, ...]:
    peers = [
        RowCase(f"{OURS}-{k}", "kmeans_ours", "ours, in memory", k=k),
        RowCase(f"ours-streamed-{k}", "kmeans_ours", "ours, streamed, 1/4 of the data", ("--streamed", "0.25"), k=k),
        RowCase(f"sklearn-{k}", "kmeans_sklearn", "scikit-learn Lloyd", k=k),
        RowCase(f"minibatch-{k}", "kmeans_minibatch", "scikit-learn MiniBatchKMeans", k=k),
        RowCase(f"faiss-{k}", "kmeans_faiss", "faiss Kmeans, all points", k=k),
        RowCase(f"superkmeans-{k}", "kmeans_superkmeans", "superkmeans flat, all points, its own start", k=k),
    ]
    if k >= 1000:  # below, its groups hold too few centers to be worth their while
        hierarchical = "superkmeans hierarchical, its own start"
        peers.append(RowCase(f"superkmeans-h-{k}", "kmeans_superkmeans", hierarchical, ("--hierarchical",), k=k))
    if dask_ml:
        peers.append(RowCase(f"dask-ml-{k}", "kmeans_dask_ml", "dask-ml KMeans", slow=True, k=k))
    return tuple(peers)


KMEANS = Family(
    name="kmeans",
    title="k-means from the same first centers",
    work={"small": Rows(n_rows=20_000, n_columns=64), "full": Rows(n_rows=200_000, n_columns=128)},
    cases={
        "small": (*_kmeans_peers(100, dask_ml=True), *_kmeans_peers(1000, dask_ml=False)),
        # dask-ml at more clusters takes minutes and says nothing new
        "full": (
            *_kmeans_peers(100, dask_ml=True),
            *_kmeans_peers(1000, dask_ml=False),
            *_kmeans_peers(4000, dask_ml=False),
        ),
    },
)

MILLION = Family(
    name="million",
    title="k-means of a million rows",
    work={"full": Rows(n_rows=1_000_000, n_columns=64)},
    cases={
        "full": (
            RowCase(f"{OURS}-1000", "kmeans_ours", "ours, in memory", k=1000),
            RowCase(
                "ours-streamed-1000", "kmeans_ours", "ours, streamed, 1/4 of the data", ("--streamed", ".25"), k=1000
            ),
            RowCase("superkmeans-1000", "kmeans_superkmeans", "superkmeans flat, all points, its own start", k=1000),
        )
    },
    opt_in=True,
)


def _sweep(name: str, what: str, *options: str) -> RowCase:
    return RowCase(name, "kmeans_sweep", what, options, k=20)


SWEEP = Family(
    name="sweep",
    title="Every k from 5 to 20, with the elbow's halves, silhouettes and stability",
    work={
        "small": Rows(n_rows=4_000, n_columns=16, iterations=0),
        "full": Rows(n_rows=50_000, n_columns=64, iterations=0),
    },
    cases={
        scale: (
            _sweep(f"{OURS}-20", "one sweep of ours, 4 starts that race, in memory"),
            _sweep("ours-fits-20", "sixteen fits of ours, 4 starts, in memory", "--way", "fits"),
            _sweep("ours-streamed-20", "one sweep of ours, streamed, 1/4 of the data", "--streamed", "0.25"),
            _sweep("ours-fits-streamed-20", "sixteen fits, streamed", "--way", "fits", "--streamed", "0.25"),
            _sweep("sklearn-20", "scikit-learn Lloyd for every k, 3 starts, nothing else", "--way", "sklearn"),
        )
        for scale in ("small", "full")
    },
)

_GRAPH_OURS = (
    Case(OURS, "neighbors_ours", "ours, in memory"),
    Case("ours-streamed", "neighbors_ours", "ours, streamed, 1/4 of the data", ("--streamed", "0.25")),
)
_GRAPH_FAISS = Case("faiss", "neighbors_faiss", "faiss IndexFlatIP, rows scaled to length 1 by numpy")

NEIGHBORS = Family(
    name="neighbors",
    title="The 15 nearest neighbors of every row, exactly",
    work={"small": Graph(n_rows=10_000, n_columns=64), "full": Graph(n_rows=100_000, n_columns=64)},
    cases={"small": (*_GRAPH_OURS, _GRAPH_FAISS), "full": (*_GRAPH_OURS, _GRAPH_FAISS)},
)

MILLION_NEIGHBORS = Family(
    name="million-neighbors",
    title="The 15 nearest neighbors of a million rows, exactly",
    work={"full": Graph(n_rows=1_000_000, n_columns=64)},
    cases={"full": _GRAPH_OURS},
    opt_in=True,
)

FAMILIES = (CATALOG, KMEANS, SWEEP, NEIGHBORS, LARGE, THUMBS, MILLION, MILLION_NEIGHBORS)
SCALES = ("small", "full")


def choose(scale: str, only: list[str]) -> list[tuple[Family, tuple[Case, ...]]]:
    """The families and cases to run. `only` holds names of families or cases; empty: all that are not opt-in.

    Raises ValueError for a name that this scale does not know.
    """
    here = [family for family in FAMILIES if scale in family.cases]
    known = {family.name for family in here} | {case.name for family in here for case in family.cases[scale]}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(f"--{scale} has no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    chosen = []
    for family in here:
        cases = family.cases[scale]
        if only and family.name not in only:
            # a case name alone never starts an opt-in family: ours-512MiB means the one of the catalog
            cases = () if family.opt_in else tuple(case for case in cases if case.name in only)
        elif not only and family.opt_in:
            cases = ()
        if cases:
            chosen.append((family, cases))
    return chosen
