/* Float32 products for processors with AVX-512. Arguments and shapes: ../floats.py.

   Both sides are cut into blocks of TERMS terms and copied, block by block, into panels in the order in which they are
   read: 8 units of the left, or 48 of the right, term by term. A block of sums, 8 by 48, stays in 24 registers.

   Every entry of a product is one chain of fused multiply-adds per block of terms, and the blocks are added in order:
   its bits depend on nothing but its row and its column. Bytes count as whole numbers, pixels as x - 128. */

#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define INLINE static inline __attribute__((always_inline))

enum {
    VECTOR = 16,
    ROWS = 8,
    STRIP = 3 * VECTOR,
    TERMS = 256, /* a panel of so many terms of the right, 48 KiB, stays in the second-level cache */
    UNITS = 128, /* and so does a block of so many left units, 128 KiB */
    COLUMNS = 42 * STRIP, /* copied at a time: of any number, the scratch is the same */
};

enum { FLOATS, VECTORS, PIXELS }; /* what one side holds: float32, int8, uint8 - 128 */
enum { PUT, ADD, COUNT };         /* how sums go into the result: float32 put, float32 added, int32 added */

typedef struct {
    const void *values;
    int64_t unit_stride, term_stride; /* in values */
    int64_t kind;
} Side;

int64_t floats_known(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
}

/* float32 values that a product needs to itself */
int64_t float_scratch(void)
{
    return (UNITS + COLUMNS) * TERMS;
}

/* Eight values that lie together, as float32. */
INLINE WIDE __m256 load_eight(const Side *side, int64_t at)
{
    if (side->kind == FLOATS)
        return _mm256_loadu_ps((const float *)side->values + at);
    __m128i bytes = _mm_loadl_epi64((const __m128i *)((const int8_t *)side->values + at));
    if (side->kind == PIXELS)
        bytes = _mm_xor_si128(bytes, _mm_set1_epi8((char)0x80));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

INLINE WIDE float load_one(const Side *side, int64_t at)
{
    if (side->kind == FLOATS)
        return ((const float *)side->values)[at];
    return side->kind == PIXELS ? (float)(((const uint8_t *)side->values)[at] - 128)
                                : (float)((const int8_t *)side->values)[at];
}

/* Eight terms of eight units whose terms lie together. */
INLINE WIDE void pack_square(const Side *side, int64_t at, float *to, int64_t wide)
{
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++)
        r[i] = load_eight(side, at + i * side->unit_stride);
    for (int i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(s[i], s[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(s[i], s[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(s[i + 1], s[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(to + i * wide, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(to + (i + 4) * wide, _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

/* `units` units from `unit` on, filled up with zeros to `wide`, for some terms: (terms, wide). */
INLINE WIDE void pack_panel(const Side *side, int64_t unit, int64_t units, int64_t term, int64_t terms, float *to,
                            int64_t wide)
{
    const int64_t whole = units / 8 * 8, even = terms / 8 * 8;
    for (int64_t u = 0; u < whole; u += 8) {
        const int64_t at = (unit + u) * side->unit_stride + term * side->term_stride;
        if (side->unit_stride == 1)
            for (int64_t k = 0; k < terms; k++)
                _mm256_storeu_ps(to + k * wide + u, load_eight(side, at + k * side->term_stride));
        else {
            for (int64_t k = 0; k < even; k += 8)
                pack_square(side, at + k, to + k * wide + u, wide);
            for (int64_t k = even; k < terms; k++)
                for (int64_t i = 0; i < 8; i++)
                    to[k * wide + u + i] = load_one(side, at + k + i * side->unit_stride);
        }
    }
    for (int64_t k = 0; k < terms && whole < wide; k++)
        for (int64_t u = whole; u < wide; u++)
            to[k * wide + u] =
                u < units ? load_one(side, (unit + u) * side->unit_stride + (term + k) * side->term_stride) : 0;
}

/* Whole panels of eight units that lie together, term by term: they share cache lines, which lie far apart. */
INLINE WIDE void pack_together(const Side *side, int64_t unit, int64_t panels, int64_t term, int64_t terms, float *to)
{
    for (int64_t p = 0; p < panels; p += 8)
        for (int64_t k = 0; k < terms; k++)
            for (int64_t q = p; q < p + 8 && q < panels; q++)
                _mm256_storeu_ps(to + (q * terms + k) * ROWS,
                                 load_eight(side, unit + q * ROWS + (term + k) * side->term_stride));
}

WIDE static void pack_side(const Side *side, int64_t unit, int64_t units, int64_t term, int64_t terms, float *to,
                           int64_t wide)
{
    const int64_t together = wide == ROWS && side->unit_stride == 1 && side->kind == FLOATS ? units / ROWS : 0;
    pack_together(&(Side){side->values, 1, side->term_stride, FLOATS}, unit, together, term, terms, to);
    to += together * ROWS * terms;
    for (int64_t u = together * ROWS; u < units; u += wide) {
        const int64_t inside = units - u < wide ? units - u : wide;
        const int64_t filled = wide == ROWS ? ROWS : (inside + VECTOR - 1) / VECTOR * VECTOR;
        const Side one = *side; /* its kind is known in each of these, and the loops are made for it */
        if (one.kind == FLOATS)
            pack_panel(&(Side){one.values, one.unit_stride, one.term_stride, FLOATS}, unit + u, inside, term, terms, to,
                       filled);
        else if (one.kind == PIXELS)
            pack_panel(&(Side){one.values, one.unit_stride, one.term_stride, PIXELS}, unit + u, inside, term, terms, to,
                       filled);
        else
            pack_panel(&(Side){one.values, one.unit_stride, one.term_stride, VECTORS}, unit + u, inside, term, terms,
                       to, filled);
        to += terms * filled;
    }
}

/* Cache lines that will be copied next: `lines` of them together, then as many a `stride` further on. */
typedef struct {
    const char *at;
    int64_t stride, lines;
} Ahead;

/* Sums of ROWS units by `vectors` vectors over some terms, into rows and columns that exist. */
INLINE WIDE void multiply(const float *left, const float *right, int64_t terms, int vectors, void *to, int64_t stride,
                          int64_t rows, int64_t columns, int64_t mode, Ahead ahead)
{
    int64_t line = 0;
    __m512 sums[ROWS][3];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++)
            sums[i][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < terms; k++) {
        __m512 b[3];
        if (k & 1) { /* half a line a term: a panel's part of the next block, over all of its terms */
            _mm_prefetch(ahead.at + 64 * line, _MM_HINT_T1);
            if (++line == ahead.lines)
                line = 0, ahead.at += ahead.stride;
        }
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++)
            b[j] = _mm512_loadu_ps(right + (k * vectors + j) * VECTOR);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            const __m512 a = _mm512_set1_ps(left[k * ROWS + i]);
#pragma GCC unroll 3
            for (int j = 0; j < vectors; j++)
                sums[i][j] = _mm512_fmadd_ps(a, b[j], sums[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
        if (i < rows)
#pragma GCC unroll 3
            for (int j = 0; j < vectors; j++) {
                const int64_t inside = columns - j * VECTOR;
                const __mmask16 mask = inside >= VECTOR ? 0xffff : (__mmask16)((1u << inside) - 1);
                float *at = (float *)to + i * stride + j * VECTOR;
                if (mode == COUNT)
                    _mm512_mask_storeu_epi32(
                        at, mask, _mm512_add_epi32(_mm512_maskz_loadu_epi32(mask, at), _mm512_cvtps_epi32(sums[i][j])));
                else if (mode == ADD)
                    _mm512_mask_storeu_ps(at, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, at), sums[i][j]));
                else
                    _mm512_mask_storeu_ps(at, mask, sums[i][j]);
            }
}

/* A panel's part of the float32 lines of the block of left units that is copied next, while this one is multiplied. */
INLINE WIDE Ahead next_lines(const Side *side, int64_t top, int64_t i, int64_t n_left, int64_t term, int64_t n_terms)
{
    const float *values = side->values;
    if (top + UNITS < n_left)
        top += UNITS;
    else
        top = 0, term += TERMS;
    if (side->kind != FLOATS || term >= n_terms) /* nothing, many times */
        return (Ahead){(const char *)values, 0, 1};
    if (side->unit_stride == 1) /* 16 rows of 128 units each, of 256 rows */
        return (Ahead){(const char *)(values + top + (term + i * TERMS / UNITS) * side->term_stride),
                       side->term_stride * 4, UNITS / VECTOR};
    return (Ahead){(const char *)(values + (top + i) * side->unit_stride + term), side->unit_stride * 4,
                   TERMS / VECTOR};
}

/* Some columns of a product: those of right units from `first` on. */
static WIDE void multiply_columns(const Side a, const Side b, void *to, float *scratch, int64_t n_left, int64_t first,
                                  int64_t n_right, int64_t n_terms, int64_t stride, int64_t whole_numbers,
                                  int64_t lower)
{
    float *strips = scratch + UNITS * TERMS;
    for (int64_t term = 0; term < n_terms; term += TERMS) {
        const int64_t terms = n_terms - term < TERMS ? n_terms - term : TERMS;
        const int64_t mode = whole_numbers ? COUNT : term == 0 ? PUT : ADD;
        pack_side(&b, first, n_right, term, terms, strips, STRIP);
        for (int64_t top = 0; top < n_left; top += UNITS) {
            const int64_t units = n_left - top < UNITS ? n_left - top : UNITS;
            pack_side(&a, top, units, term, terms, scratch, ROWS);
            for (int64_t j = 0; j < n_right; j += STRIP) {
                const int64_t columns = n_right - j < STRIP ? n_right - j : STRIP;
                const float *strip = strips + j * terms;
                for (int64_t i = 0; i < units; i += ROWS) {
                    if (lower && first + j >= top + i + ROWS) /* all of it is above the diagonal */
                        continue;
                    const float *panel = scratch + i * terms;
                    float *at = (float *)to + (top + i) * stride + first + j;
                    const int64_t rows = units - i < ROWS ? units - i : ROWS;
                    const Ahead ahead = next_lines(&a, top, i, j == 0 ? n_left : 0, term, j == 0 ? n_terms : 0);
                    if (columns > 2 * VECTOR)
                        multiply(panel, strip, terms, 3, at, stride, rows, columns, mode, ahead);
                    else if (columns > VECTOR)
                        multiply(panel, strip, terms, 2, at, stride, rows, columns, mode, ahead);
                    else
                        multiply(panel, strip, terms, 1, at, stride, rows, columns, mode, ahead);
                }
            }
        }
    }
}

WIDE void float_product(const void *left, const void *right, void *to, float *scratch, int64_t n_left, int64_t n_right,
                        int64_t n_terms, int64_t left_unit, int64_t left_term, int64_t left_kind, int64_t right_unit,
                        int64_t right_term, int64_t right_kind, int64_t stride, int64_t whole_numbers, int64_t lower)
{
    const Side a = {left, left_unit, left_term, left_kind}, b = {right, right_unit, right_term, right_kind};
    for (int64_t first = 0; first < n_right; first += COLUMNS)
        multiply_columns(a, b, to, scratch, n_left, first, n_right - first < COLUMNS ? n_right - first : COLUMNS,
                         n_terms, stride, whole_numbers, lower);
}

#else

int64_t floats_known(void)
{
    return 0;
}

int64_t float_scratch(void)
{
    return 0;
}

void float_product(const void *left, const void *right, void *to, float *scratch, int64_t n_left, int64_t n_right,
                   int64_t n_terms, int64_t left_unit, int64_t left_term, int64_t left_kind, int64_t right_unit,
                   int64_t right_term, int64_t right_kind, int64_t stride, int64_t whole_numbers, int64_t lower)
{
    (void)left, (void)right, (void)to, (void)scratch, (void)n_left, (void)n_right, (void)n_terms, (void)left_unit,
        (void)left_term, (void)left_kind, (void)right_unit, (void)right_term, (void)right_kind, (void)stride,
        (void)whole_numbers, (void)lower;
}

#endif
