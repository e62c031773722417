/* Float32 products for processors with AVX-512. Arguments and shapes: ../floats.py.

   A row of an operand is a row of the left matrix or a column of the right one. Both operands are cut into blocks of
   K_BLOCK along k and packed, block by block, into panels in the order in which they are read: 8 rows of the left, or
   48 of the right, for one k after the other. A block of sums, 8 by 48, stays in 24 registers.

   Every entry of a product is one chain of fused multiply-adds for each block along k, and the blocks are added in
   order: its bits depend on nothing but its row and its column. Bytes count as whole numbers, pixels as x - 128. */

#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma")))
#define INLINE static inline __attribute__((always_inline))

enum {
    VECTOR = 16,
    PANEL_ROWS = 8,
    PANEL_COLUMNS = 3 * VECTOR,
    K_BLOCK = 256, /* a panel of the right of this length, 48 KiB, stays in the second-level cache */
    M_BLOCK = 128, /* and so does a block of so many rows of the left, 128 KiB */
    N_BLOCK = 42 * PANEL_COLUMNS, /* columns packed at a time, so that the scratch has one size for any n */
};

enum { FLOATS, VECTORS, PIXELS }; /* dtype of an operand: float32, int8, uint8 - 128 */
enum { PUT, ADD, COUNT };         /* how sums go into the result: float32 put, float32 added, int32 added */

typedef struct {
    const void *values;
    int64_t row_stride, k_stride; /* in values */
    int64_t kind;
} Operand;

int64_t floats_known(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
}

/* The number of float32 values of scratch that a product needs. */
int64_t float_scratch(void)
{
    return (M_BLOCK + N_BLOCK) * K_BLOCK;
}

/* Eight values that lie together, as float32. */
INLINE WIDE __m256 load_eight(const Operand *operand, int64_t at)
{
    if (operand->kind == FLOATS)
        return _mm256_loadu_ps((const float *)operand->values + at);
    __m128i bytes = _mm_loadl_epi64((const __m128i *)((const int8_t *)operand->values + at));
    if (operand->kind == PIXELS)
        bytes = _mm_xor_si128(bytes, _mm_set1_epi8((char)0x80));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

INLINE WIDE float load_one(const Operand *operand, int64_t at)
{
    if (operand->kind == FLOATS)
        return ((const float *)operand->values)[at];
    return operand->kind == PIXELS ? (float)(((const uint8_t *)operand->values)[at] - 128)
                                : (float)((const int8_t *)operand->values)[at];
}

/* Pack eight values of k of eight rows, each contiguous along k. */
INLINE WIDE void pack_square(const Operand *operand, int64_t at, float *to, int64_t wide)
{
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++)
        r[i] = load_eight(operand, at + i * operand->row_stride);
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

/* Pack n_rows rows from `row` on, k_len values of k from k0 on: (k_len, wide), filled up with zeros to `wide`. */
INLINE WIDE void pack_panel(const Operand *operand, int64_t row, int64_t n_rows, int64_t k0, int64_t k_len, float *to,
                            int64_t wide)
{
    const int64_t whole = n_rows / 8 * 8, even = k_len / 8 * 8;
    for (int64_t u = 0; u < whole; u += 8) {
        const int64_t at = (row + u) * operand->row_stride + k0 * operand->k_stride;
        if (operand->row_stride == 1)
            for (int64_t k = 0; k < k_len; k++)
                _mm256_storeu_ps(to + k * wide + u, load_eight(operand, at + k * operand->k_stride));
        else {
            for (int64_t k = 0; k < even; k += 8)
                pack_square(operand, at + k, to + k * wide + u, wide);
            for (int64_t k = even; k < k_len; k++)
                for (int64_t i = 0; i < 8; i++)
                    to[k * wide + u + i] = load_one(operand, at + k + i * operand->row_stride);
        }
    }
    for (int64_t k = 0; k < k_len && whole < wide; k++)
        for (int64_t u = whole; u < wide; u++)
            to[k * wide + u] =
                u < n_rows ? load_one(operand, (row + u) * operand->row_stride + (k0 + k) * operand->k_stride) : 0;
}

/* Whole panels of eight rows that are contiguous along n, one k after the other: they share cache lines. */
INLINE WIDE void pack_together(const Operand *operand, int64_t row, int64_t panels, int64_t k0, int64_t k_len,
                               float *to)
{
    for (int64_t p = 0; p < panels; p += 8)
        for (int64_t k = 0; k < k_len; k++)
            for (int64_t q = p; q < p + 8 && q < panels; q++)
                _mm256_storeu_ps(to + (q * k_len + k) * PANEL_ROWS,
                                 load_eight(operand, row + q * PANEL_ROWS + (k0 + k) * operand->k_stride));
}

WIDE static void pack_operand(const Operand *operand, int64_t row, int64_t n_rows, int64_t k0, int64_t k_len, float *to,
                           int64_t wide)
{
    const int64_t together =
        wide == PANEL_ROWS && operand->row_stride == 1 && operand->kind == FLOATS ? n_rows / PANEL_ROWS : 0;
    pack_together(&(Operand){operand->values, 1, operand->k_stride, FLOATS}, row, together, k0, k_len, to);
    to += together * PANEL_ROWS * k_len;
    for (int64_t u = together * PANEL_ROWS; u < n_rows; u += wide) {
        const int64_t inside = n_rows - u < wide ? n_rows - u : wide;
        const int64_t filled = wide == PANEL_ROWS ? PANEL_ROWS : (inside + VECTOR - 1) / VECTOR * VECTOR;
        const Operand one = *operand; /* the dtype is a constant in each call: the compiler makes a loop for each */
        if (one.kind == FLOATS)
            pack_panel(&(Operand){one.values, one.row_stride, one.k_stride, FLOATS}, row + u, inside, k0, k_len, to,
                       filled);
        else if (one.kind == PIXELS)
            pack_panel(&(Operand){one.values, one.row_stride, one.k_stride, PIXELS}, row + u, inside, k0, k_len, to,
                       filled);
        else
            pack_panel(&(Operand){one.values, one.row_stride, one.k_stride, VECTORS}, row + u, inside, k0, k_len,
                       to, filled);
        to += k_len * filled;
    }
}

/* Cache lines that will be copied next: `lines` of them together, then as many a `stride` further on. */
typedef struct {
    const char *at;
    int64_t stride, lines;
} Ahead;

/* The product of PANEL_ROWS rows and `vectors` vectors over k_len, written to the rows and columns that exist. */
INLINE WIDE void multiply(const float *left, const float *right, int64_t k_len, int vectors, void *to, int64_t stride,
                          int64_t rows, int64_t columns, int64_t mode, Ahead ahead)
{
    int64_t line = 0;
    __m512 sums[PANEL_ROWS][3];
#pragma GCC unroll 8
    for (int i = 0; i < PANEL_ROWS; i++)
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++)
            sums[i][j] = _mm512_setzero_ps();
    for (int64_t k = 0; k < k_len; k++) {
        __m512 b[3];
        if (k & 1) { /* half a cache line for each k: this panel's part of the next block */
            _mm_prefetch(ahead.at + 64 * line, _MM_HINT_T1);
            if (++line == ahead.lines)
                line = 0, ahead.at += ahead.stride;
        }
#pragma GCC unroll 3
        for (int j = 0; j < vectors; j++)
            b[j] = _mm512_loadu_ps(right + (k * vectors + j) * VECTOR);
#pragma GCC unroll 8
        for (int i = 0; i < PANEL_ROWS; i++) {
            const __m512 a = _mm512_set1_ps(left[k * PANEL_ROWS + i]);
#pragma GCC unroll 3
            for (int j = 0; j < vectors; j++)
                sums[i][j] = _mm512_fmadd_ps(a, b[j], sums[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < PANEL_ROWS; i++)
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

/* A panel's part of the float32 lines of the block of the left that is packed next, while this one is multiplied. */
INLINE WIDE Ahead next_lines(const Operand *operand, int64_t top, int64_t i, int64_t m, int64_t k0, int64_t k_total)
{
    const float *values = operand->values;
    if (top + M_BLOCK < m)
        top += M_BLOCK;
    else
        top = 0, k0 += K_BLOCK;
    if (operand->kind != FLOATS || k0 >= k_total) /* nothing, many times */
        return (Ahead){(const char *)values, 0, 1};
    if (operand->row_stride == 1) /* 16 values of k, 128 rows each, of 256 values of k */
        return (Ahead){(const char *)(values + top + (k0 + i * K_BLOCK / M_BLOCK) * operand->k_stride),
                       operand->k_stride * 4, M_BLOCK / VECTOR};
    return (Ahead){(const char *)(values + (top + i) * operand->row_stride + k0), operand->row_stride * 4,
                   K_BLOCK / VECTOR};
}

/* n columns of a product, from column `first` on. */
static WIDE void multiply_columns(const Operand a, const Operand b, void *to, float *scratch, int64_t m, int64_t first,
                                  int64_t n, int64_t k_total, int64_t stride, int64_t whole_numbers,
                                  int64_t lower)
{
    float *right_panels = scratch + M_BLOCK * K_BLOCK;
    for (int64_t k0 = 0; k0 < k_total; k0 += K_BLOCK) {
        const int64_t k_len = k_total - k0 < K_BLOCK ? k_total - k0 : K_BLOCK;
        const int64_t mode = whole_numbers ? COUNT : k0 == 0 ? PUT : ADD;
        pack_operand(&b, first, n, k0, k_len, right_panels, PANEL_COLUMNS);
        for (int64_t top = 0; top < m; top += M_BLOCK) {
            const int64_t n_rows = m - top < M_BLOCK ? m - top : M_BLOCK;
            pack_operand(&a, top, n_rows, k0, k_len, scratch, PANEL_ROWS);
            for (int64_t j = 0; j < n; j += PANEL_COLUMNS) {
                const int64_t columns = n - j < PANEL_COLUMNS ? n - j : PANEL_COLUMNS;
                const float *right_panel = right_panels + j * k_len;
                for (int64_t i = 0; i < n_rows; i += PANEL_ROWS) {
                    if (lower && first + j >= top + i + PANEL_ROWS) /* all of it is above the diagonal */
                        continue;
                    const float *panel = scratch + i * k_len;
                    float *at = (float *)to + (top + i) * stride + first + j;
                    const int64_t rows = n_rows - i < PANEL_ROWS ? n_rows - i : PANEL_ROWS;
                    const Ahead ahead = next_lines(&a, top, i, j == 0 ? m : 0, k0, j == 0 ? k_total : 0);
                    if (columns > 2 * VECTOR)
                        multiply(panel, right_panel, k_len, 3, at, stride, rows, columns, mode, ahead);
                    else if (columns > VECTOR)
                        multiply(panel, right_panel, k_len, 2, at, stride, rows, columns, mode, ahead);
                    else
                        multiply(panel, right_panel, k_len, 1, at, stride, rows, columns, mode, ahead);
                }
            }
        }
    }
}

WIDE void float_product(const void *left, const void *right, void *to, float *scratch, int64_t m, int64_t n,
                        int64_t k_total, int64_t a_stride, int64_t a_k_stride, int64_t a_kind, int64_t b_stride,
                        int64_t b_k_stride, int64_t b_kind, int64_t stride, int64_t whole_numbers, int64_t lower)
{
    const Operand a = {left, a_stride, a_k_stride, a_kind}, b = {right, b_stride, b_k_stride, b_kind};
    for (int64_t first = 0; first < n; first += N_BLOCK)
        multiply_columns(a, b, to, scratch, m, first, n - first < N_BLOCK ? n - first : N_BLOCK,
                         k_total, stride, whole_numbers, lower);
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

void float_product(const void *left, const void *right, void *to, float *scratch, int64_t m, int64_t n,
                   int64_t k_total, int64_t a_stride, int64_t a_k_stride, int64_t a_kind, int64_t b_stride,
                   int64_t b_k_stride, int64_t b_kind, int64_t stride, int64_t whole_numbers, int64_t lower)
{
    (void)left, (void)right, (void)to, (void)scratch, (void)m, (void)n, (void)k_total, (void)a_stride,
        (void)a_k_stride, (void)a_kind, (void)b_stride, (void)b_k_stride, (void)b_kind, (void)stride,
        (void)whole_numbers, (void)lower;
}

#endif
