"""How an application of the covariance operator is scheduled: columns at once, terms at once, tiles kept or read twice.

The application itself is in bigcluster.solvers.pca.operator.

One application of the covariance operator to a block of vectors, streamed: one read of the data.

    units: the smaller side of X (vectors live here)          terms: the larger one, streamed in blocks

    by row, n_rows <= n_columns                                by column
        Z' = V' X_b          (b, rows) (rows, w)                  Z  = X_b V           (w, columns) (columns, b)
        Y += X_b Z           (rows, w) (w, b)                     Y' += Z' X_b         (b, w) (w, columns)

Either way X_b is used as it is read, on the left or on the right: nothing of its size is transposed.
Vectors are 8-bit: integers times one scale per column and tile. The means are taken out by a rank-one term: with M
the shifted data, units by terms, X_centered = M - a c', where a = 1 and c = mean - 128, or the reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from bigcluster.kernels.linalg.floats import float_product
from bigcluster.kernels.linalg.gemm import Gemm
from bigcluster.kernels.linalg.gemm import Side as Layout
from bigcluster.kernels.linalg.loops import add_scaled
from bigcluster.kernels.linalg.quantize import Code, encode
from bigcluster.runtime.threads import Runtime
from bigcluster.solvers.pca.operands import Array
from bigcluster.solvers.pca.result import Components, Doubles, Target, usual_components
from bigcluster.store.row_source import RowSource, spans

# Canonical: the rounding of the vectors and the order of the sums follow these, so they are the same for any budget.
UNIT_TILE = 4096
TERMS = 2048
FLOAT_VECTORS = 32
# Blocks of terms that may be read together: a chunk of pixels is four of them wide, and is read whole or not at all.
_SLABS = (4, 2, 1)
# What the second reading of a slab costs beside its first: it has just been read.
_AGAIN = 0.5
# Memory is reckoned for so many blocks: 800 components of photographs and catalog cuts took 8.
USUAL_APPLICATIONS = 9
_MOST_APPLICATIONS = 16


@dataclass(frozen=True)
class Pass:
    """How an application is scheduled.

    columns : vectors at once (each group of them is a read of the data); slab : blocks of terms read together;
    n_kept : how many unit tiles of a slab stay in memory between their two uses; the others are read twice.
    """

    columns: int
    slab: int
    n_kept: int


def block_width(target: Target, n_units: int) -> int:
    """Columns of one block: three tenths of the components; for a share of the variance, what suits a few hundred.

    Narrow blocks need fewer columns in all, but each block is a read of the data: for 800 components 8 blocks of 240
    columns explain what 5 of 448 do, and .0003 more than 6 of 320.
    """
    if not isinstance(target, Components):
        return min(n_units, 240)
    return min(n_units, max(32, -(-target.n * 3 // 10 // 16) * 16))


def most_applications(target: Target) -> int:
    """Where the basis ends: a number of components needs no more, a share of the variance may."""
    return USUAL_APPLICATIONS if isinstance(target, Components) else _MOST_APPLICATIONS


def ritz_bytes(size: int) -> int:
    """Of the Rayleigh-Ritz step, in (size, size) float64 matrices: basis, the two of the problem, the one that makes it
    orthonormal, the reduced problem, and four of the eigensolver."""
    return 9 * 8 * size**2


def application_bytes(n_units: int, threads: int, item: int, plan: Pass) -> int:
    """What one application holds: images, codes, operands, tiles and the scratch of every thread."""
    tile, terms = min(UNIT_TILE, n_units), TERMS * plan.slab
    scratch = threads * (tile * (terms + 2 * TERMS) * item + 8 * plan.columns * max(tile, TERMS))
    products = plan.columns * terms * (4 * (threads + 2) + 2)  # shares of Z that are computed or wait, Z, its codes
    return n_units * plan.columns * (4 + 2 * item) + plan.n_kept * tile * terms * item + scratch + products


def plan_pass(n_units: int, width: int, threads: int, item: int, workspace_bytes: int, *, by_row: bool) -> Pass:
    """What reads the least and fits; 32 columns at a time, twice read, where nothing does."""
    blocks, n_tiles = -(-width // FLOAT_VECTORS), -(-n_units // UNIT_TILE)
    slabs = _SLABS if by_row and item == 1 else (1,)
    fitting = []
    for slab in slabs:
        for groups in range(1, blocks + 1):
            columns = -(-blocks // groups) * FLOAT_VECTORS
            spare = workspace_bytes - application_bytes(n_units, threads, item, Pass(columns, slab, 0))
            if spare >= 0:
                n_kept = min(n_tiles, spare // (min(UNIT_TILE, n_units) * TERMS * slab * item))
                reads = groups * (1 + _AGAIN * (1 - n_kept / n_tiles)) * slabs[0] / slab
                fitting.append((reads, groups, Pass(columns, slab, n_kept)))
    if not fitting:
        return Pass(FLOAT_VECTORS, 1, 0)
    return min(fitting, key=lambda choice: choice[:2])[2]


def iteration_pass(
    target: Target, n_units: int, threads: int, item: int, workspace_bytes: int, *, by_row: bool
) -> tuple[Pass, int]:
    """How the blocks of an iteration are applied, and what it holds at most; a quarter of the workspace is left to the
    basis."""
    plan = plan_pass(n_units, block_width(target, n_units), threads, item, 3 * workspace_bytes // 4, by_row=by_row)
    held = max(
        application_bytes(n_units, threads, item, plan),
        ritz_bytes(min(n_units, USUAL_APPLICATIONS * block_width(target, n_units))),
    )
    return plan, held if by_row else max(held, projection_bytes(usual_components(target), n_units, threads, item))


def projection_bytes(n_vectors: int, n_units: int, threads: int, item: int) -> int:
    """What the read by column for all components holds: what an application does, but no images."""
    return application_bytes(n_units, threads, item, Pass(n_vectors, 1, 0)) - 4 * n_units * n_vectors


Floats = NDArray[np.float32]
Span = tuple[int, int]
KeepCode = Callable[[int, Code], None]
# Half of the second-level cache of many processors, all of that of others; from 512 KiB to 2 MiB it is much the same.
_PIECE_BYTES = 1024 * 1024


class Side:
    """The data, seen from its smaller side."""

    def __init__(self, rows: RowSource, mean: Doubles, gemm: Gemm) -> None:
        self.by_row = rows.shape[0] <= rows.shape[1]
        self.n_units, self.n_terms = rows.shape if self.by_row else rows.shape[::-1]
        self.unit_spans = list(spans(self.n_units, UNIT_TILE))
        self.term_spans = list(spans(self.n_terms, TERMS))
        self.exact = rows.dtype == np.uint8
        self.gemm = gemm
        self._rows, self._mean = rows, mean
        self._spent: list[Array] = []
        self._lock = Lock()
        shifted = mean - 128.0 if self.exact else np.zeros(len(mean))
        ones = np.ones(rows.shape[0]) if self.exact else np.zeros(rows.shape[0])
        self.unit_offsets: Doubles = ones if self.by_row else shifted
        self.term_offsets: Doubles = shifted if self.by_row else ones

    def read(self, t: int, terms: Span) -> Array:
        """Unit tile t of a block of terms as it lies in the data; float data centered, as float32."""
        units = self.unit_spans[t]
        row_span, column_span = (units, terms) if self.by_row else (terms, units)
        columns = slice(*column_span)
        shape = row_span[1] - row_span[0], column_span[1] - column_span[0]
        block = self._rows.read(*row_span, columns, spent=self._take_spent(shape))
        if self.exact:
            return block
        centered: Floats = np.subtract(block, self._mean[columns], dtype=np.float64).astype(np.float32)
        return centered

    def give_back(self, tile: Array) -> None:
        """The memory of a tile that nobody uses any more goes to a later one."""
        if self.exact:
            with self._lock:
                self._spent.append(tile)

    def _take_spent(self, shape: tuple[int, int]) -> Array | None:
        with self._lock:
            for i, tile in enumerate(self._spent):
                if tile.shape == shape:
                    return self._spent.pop(i)
            if self._spent:  # it would stay beside its successor
                self._spent.pop()
        return None

    def let_go(self) -> None:
        """Of all memory that waits for a tile."""
        self._spent.clear()

    def cut(self, tile: Array, slab: Span, terms: Span) -> Array:
        """The part of a tile, read for a slab of terms, that belongs to one block of them; a view."""
        part = slice(terms[0] - slab[0], terms[1] - slab[0])
        return tile[:, part] if self.by_row else tile[part]

    def _vectors(self, code: Code, *, left: bool) -> Layout:
        """Vectors on the side of a product where they stand, laid out once for many products."""
        if not self.exact:
            return np.ascontiguousarray(code.values.T) if left else code.values
        lay = self.gemm.left if left else self.gemm.right
        return lay(code.values, by_row=False)

    def operand(self, code: Code) -> Layout:
        """Vectors of one unit tile as `forward` multiplies them: (b, units) left or (units, b) right."""
        return self._vectors(code, left=self.by_row)

    def forward(self, tile: Array, operand: Layout, scale: Floats) -> Floats:
        """This tile's share of Z, as (w, b); a view."""
        if not self.exact:
            assert isinstance(operand, np.ndarray)
            return _float_vectors_times(operand, tile).T if self.by_row else _float_times_vectors(tile, operand)
        if self.by_row:
            share = np.empty((len(scale), tile.shape[1]), np.float32)
            for piece in _pieces(tile.shape[::-1]):
                product = self.gemm.multiply(operand, self.gemm.right(tile[:, piece], by_row=False))
                np.multiply(product, scale[:, None], out=share[:, piece], dtype=np.float32)
            return share.T
        share = np.empty((len(tile), len(scale)), np.float32)
        for piece in _pieces(tile.shape):
            product = self.gemm.multiply(self.gemm.left(tile[piece], by_row=True), operand)
            np.multiply(product, scale, out=share[piece], dtype=np.float32)
        return share

    def add_backward(self, image: Floats, tile: Array, code: Code, operand: Layout) -> None:
        """Add this block's share of Y for one unit tile, (units, b), to its image."""
        if not self.exact:
            assert isinstance(operand, np.ndarray)
            image += _float_times_vectors(tile, operand) if self.by_row else _float_vectors_times(operand, tile).T
        elif self.by_row:
            for piece in _pieces(tile.shape):
                product = self.gemm.multiply(self.gemm.left(tile[piece], by_row=True), operand)
                add_scaled(image[piece], product, code.scale, by_row=False)
        else:  # images are laid out the other way round
            product = self.gemm.multiply(operand, self.gemm.right(tile, by_row=False))
            add_scaled(image.T, product, code.scale, by_row=True)

    def term_operand(self, code: Code) -> Layout:
        """Vectors of one block of terms as `backward` multiplies them."""
        return self._vectors(code, left=not self.by_row)

    def empty_image(self, t: int, width: int) -> Floats:
        """Zeros, (units, width), laid out as `backward` adds to it."""
        n_units = self.unit_spans[t][1] - self.unit_spans[t][0]
        return np.zeros((n_units, width), np.float32, order="C" if self.by_row else "F")


def _pieces(shape: tuple[int, ...]) -> Iterator[slice]:
    """Parts of (n, m) bytes that are still in the processor's cache when they are multiplied, after they were laid out;
    and so is their product, when it is added up."""
    n, m = shape
    return (slice(*span) for span in spans(n, max(64, _PIECE_BYTES // m // 64 * 64)))


def _float_vectors_times(vectors: Floats, tile: Floats) -> Floats:
    """(b, n) times data (n, m)."""
    data = np.ascontiguousarray(tile)
    # A float32 product may round otherwise at another width, and how many vectors come at once is the budget's.
    return np.concatenate([float_product(vectors[a:b], data) for a, b in spans(len(vectors), FLOAT_VECTORS)])


def _float_times_vectors(tile: Floats, vectors: Floats) -> Floats:
    """Data (m, n) times (n, b)."""
    data = np.ascontiguousarray(tile)
    pieces = (np.ascontiguousarray(vectors[:, a:b]) for a, b in spans(vectors.shape[1], FLOAT_VECTORS))
    return np.concatenate([float_product(data, piece) for piece in pieces], axis=1)


def apply(side: Side, codes: list[Code], plan: Pass, runtime: Runtime, keep: KeepCode | None = None) -> list[Floats]:
    """X_c X_c' V of one group of columns: (units, b) float32 images, one per unit tile, exact up to float32 sums.

    codes : V, one per unit tile; keep(i, code) takes the rounded Z of each block of terms, which the images are of.
    """
    tiles = range(len(side.unit_spans))
    width = codes[0].values.shape[1]
    images = [side.empty_image(t, width) for t in tiles]
    term_shift = np.zeros(width)  # c' Z
    n_done = 0
    for slab in _forward_slabs(side, codes, plan, runtime):
        coded = []
        blocks = zip(slab.terms, slab.totals, strict=True)
        for terms, code, shift, operand in runtime.map(partial(_term_code, side), blocks):
            term_shift += shift
            coded.append((terms, code, operand))
            if keep is not None:
                keep(n_done, code)
            n_done += 1

        def backward(t: int, slab: _Slab = slab, coded: list[tuple[Span, Code, Layout]] = coded) -> None:
            tile = slab.kept.pop(t) if t in slab.kept else side.read(t, slab.span)
            for terms, code, operand in coded:
                side.add_backward(images[t], side.cut(tile, slab.span, terms), code, operand)
            side.give_back(tile)

        for _ in runtime.map(backward, tiles):
            pass
    side.let_go()
    for (start, stop), image in zip(side.unit_spans, images, strict=True):
        image -= np.outer(side.unit_offsets[start:stop], term_shift).astype(np.float32)
    return images


def project_terms(side: Side, codes: list[Code], runtime: Runtime) -> Iterator[Floats]:
    """X_c' V, (w, b) float32 for every block of terms: an application without its images."""
    for slab in _forward_slabs(side, codes, Pass(codes[0].values.shape[1], 1, 0), runtime):
        for total in slab.totals:
            yield np.ascontiguousarray(total)
    side.let_go()


@dataclass(frozen=True)
class _Slab:
    """Some blocks of terms: Z = X_c' V of each, summed over unit tiles in order, and the tiles that were kept."""

    terms: list[Span]
    totals: list[Floats]
    kept: dict[int, Array]

    @property
    def span(self) -> Span:
        return self.terms[0][0], self.terms[-1][1]


def _forward_slabs(side: Side, codes: list[Code], plan: Pass, runtime: Runtime) -> Iterator[_Slab]:
    tiles = range(len(side.unit_spans))
    operands = list(runtime.map(lambda t: side.operand(codes[t]), tiles))
    unit_shift = np.zeros(codes[0].values.shape[1])  # a' V
    for shift in runtime.map(lambda t: codes[t].weighted(side.unit_offsets[slice(*side.unit_spans[t])]), tiles):
        unit_shift += shift
    for first in range(0, len(side.term_spans), plan.slab):
        slab = _Slab(side.term_spans[first : first + plan.slab], [], {})

        def forward(t: int, slab: _Slab = slab) -> list[Floats]:
            tile = side.read(t, slab.span)
            parts = (side.cut(tile, slab.span, terms) for terms in slab.terms)
            shares = [side.forward(part, operands[t], codes[t].scale) for part in parts]
            if t < plan.n_kept:
                slab.kept[t] = tile
            else:
                side.give_back(tile)
            return shares

        # One more than computes: adding a share up keeps no thread waiting.
        for shares in runtime.map(forward, tiles, in_flight=runtime.threads + 1):
            if not slab.totals:
                slab.totals.extend(shares)
                continue
            for total, share in zip(slab.totals, shares, strict=True):
                total += share

        def take_out_mean(block: tuple[Span, Floats]) -> None:
            terms, total = block
            total -= np.outer(side.term_offsets[slice(*terms)], unit_shift).astype(np.float32)

        for _ in runtime.map(take_out_mean, zip(slab.terms, slab.totals, strict=True)):
            pass
        yield slab


def _term_code(side: Side, block: tuple[Span, Floats]) -> tuple[Span, Code, Doubles, Layout]:
    """Z of one block of terms rounded, its share of c' Z, and its layout for `backward`."""
    terms, total = block
    code = encode(np.ascontiguousarray(total), rounded=side.exact)
    return terms, code, code.weighted(side.term_offsets[slice(*terms)]), side.term_operand(code)
