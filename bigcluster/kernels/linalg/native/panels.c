/* Exact products of 8-bit matrices for processors with AVX-512 VNNI. Arguments and shapes: ../panels.py.

   Both operands lie in panels, in the order in which they are read: 16 rows, four values of k of each together.

       row 0: t0 t1 t2 t3 | row 1: t0 t1 t2 t3 | ... | row 15 || row 0: t4 t5 t6 t7 | ...

   A row of an operand is a row of the left matrix or a column of the right one. One instruction multiplies 64 pairs of
   bytes and adds them by fours: four values of k of one row of the left, repeated, with those of 16 rows of the right.
   It takes one operand unsigned, so the right becomes y + 128, and 128 times the sum of every left row is subtracted.
   All sums are modulo 2^32, and what fits an int32 comes out exact. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline))

enum {
    PANEL = 16,
    BLOCK_ROWS = 8, /* left rows and right panels of one block of sums, which stay in 16 registers */
    BLOCK_PANELS = 2,
};

/* Rows and length along k of the block of the left that stays in the second-level cache while panels of the right pass
   by. The smaller it is, the more often panels come from the third level. On AMD's, which is near, a single panel of the
   left is the fastest (Zen 5: 970 against 892 Gop/s a core, both busy); on Intel's, which is far, half a mebibyte of it
   (Xeon, both busy: 569 against 486 of a mebibyte, and 486 of a single panel). */
typedef struct {
    int64_t n_rows, k_len;
} CacheBlock;

static CacheBlock cache_block(void)
{
    return __builtin_cpu_is("amd") ? (CacheBlock){PANEL, 8192} : (CacheBlock){256, 2048};
}

/* 1: the instructions are there; 2: so are AMX tiles, which are faster still, but not ours. */
int64_t panels_known(void)
{
    unsigned a, b, c, d = 0;
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl"))
        return 0;
    return 1 + 2 * (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 25 & 1));
}

/* Bytes of a row, zero outside of it; `flips` is zero there as well. */
INLINE VNNI __m512i load_row(const uint8_t *x, __mmask64 inside, __m512i flips)
{
    return _mm512_xor_si512(_mm512_maskz_loadu_epi8(inside, x), flips);
}

INLINE VNNI __mmask64 first(int64_t n)
{
    return n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1;
}

/* Four vectors of four lanes become their transpose. */
INLINE VNNI void turn_lanes(__m512i a, __m512i b, __m512i c, __m512i d, __m512i *to, int64_t step)
{
    const __m512i ab = _mm512_shuffle_i32x4(a, b, 0x44), cd = _mm512_shuffle_i32x4(c, d, 0x44);
    const __m512i ef = _mm512_shuffle_i32x4(a, b, 0xee), gh = _mm512_shuffle_i32x4(c, d, 0xee);
    to[0] = _mm512_shuffle_i32x4(ab, cd, 0x88);
    to[step] = _mm512_shuffle_i32x4(ab, cd, 0xdd);
    to[2 * step] = _mm512_shuffle_i32x4(ef, gh, 0x88);
    to[3 * step] = _mm512_shuffle_i32x4(ef, gh, 0xdd);
}

/* Put a quad into its panel and add it to the sums of its rows. */
INLINE VNNI __m512i put_quad(int8_t *to, __m512i quad, __m512i sums)
{
    _mm512_storeu_si512(to, quad);
    return _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), quad);
}

/* Pack k values that lie apart in memory: some quads of a few panels, 64 rows at most. */
INLINE VNNI void pack_columns(const uint8_t *x, int64_t stride, int64_t k, __mmask64 inside, __m512i flips,
                              int8_t *panels, int64_t panel, int64_t n_panels, int32_t *sums)
{
    __m512i total[4], quad[4];
    for (int64_t p = 0; p < n_panels; p++)
        total[p] = _mm512_loadu_si512(sums + p * PANEL);
    for (int64_t k0 = 0; k0 < k; k0 += 4) {
        const __m512i zero = _mm512_setzero_si512(), t0 = load_row(x + k0 * stride, inside, flips);
        const __m512i t1 = k0 + 1 < k ? load_row(x + (k0 + 1) * stride, inside, flips) : zero;
        const __m512i t2 = k0 + 2 < k ? load_row(x + (k0 + 2) * stride, inside, flips) : zero;
        const __m512i t3 = k0 + 3 < k ? load_row(x + (k0 + 3) * stride, inside, flips) : zero;
        const __m512i a = _mm512_unpacklo_epi8(t0, t1), b = _mm512_unpackhi_epi8(t0, t1);
        const __m512i c = _mm512_unpacklo_epi8(t2, t3), d = _mm512_unpackhi_epi8(t2, t3);
        turn_lanes(_mm512_unpacklo_epi16(a, c), _mm512_unpackhi_epi16(a, c), _mm512_unpacklo_epi16(b, d),
                   _mm512_unpackhi_epi16(b, d), quad, 1);
        for (int64_t p = 0; p < n_panels; p++)
            total[p] = put_quad(panels + p * panel + k0 * PANEL, quad[p], total[p]);
    }
    for (int64_t p = 0; p < n_panels; p++)
        _mm512_storeu_si512(sums + p * PANEL, total[p]);
}

/* Pack k values that are contiguous: up to 16 quads of the rows of one panel; returns their sums added to `sums`. */
INLINE VNNI __m512i pack_rows(const uint8_t *x, int64_t stride, int64_t n_rows, int64_t k, __m512i flip,
                              int8_t *panel, __m512i sums)
{
    const __mmask64 inside = first(k);
    const __m512i flips = _mm512_maskz_mov_epi8(inside, flip);
    __m512i a[PANEL], b[PANEL];
    for (int64_t row = 0; row < PANEL; row++)
        a[row] = row < n_rows ? load_row(x + row * stride, inside, flips) : _mm512_setzero_si512();
    for (int i = 0; i < PANEL; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < PANEL; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; i++) /* lane l of a[4 g + i]: rows 4 g ... 4 g + 3 of quad 4 l + i */
        turn_lanes(a[i], a[4 + i], a[8 + i], a[12 + i], b + i, 4);
    for (int64_t quad = 0; quad < PANEL && 4 * quad < k; quad++)
        sums = put_quad(panel + quad * 4 * PANEL, b[quad], sums);
    return sums;
}

VNNI void pack(const uint8_t *x, int8_t *panels, int32_t *sums, int64_t stride, int64_t n, int64_t k,
               int64_t by_row, int64_t flipped)
{
    enum { TOGETHER = 64 }; /* along k: as many streams as processors follow, a cache line of each at a time */
    const int64_t panel = (k + 3) / 4 * 4 * PANEL, n_panels = (n + PANEL - 1) / PANEL;
    const __m512i flip = _mm512_set1_epi8(flipped ? (char)0x80 : 0);
    memset(sums, 0, n_panels * PANEL * sizeof *sums);
    if (by_row)
        for (int64_t p = 0; p < n_panels; p++) {
            const int64_t n_rows = n - p * PANEL;
            const uint8_t *from = x + p * PANEL * stride;
            __m512i total = _mm512_setzero_si512();
            for (int64_t k0 = 0; k0 < k; k0 += 64) {
                int8_t *to = panels + p * panel + k0 * PANEL;
                if (n_rows >= PANEL && k0 + 64 <= k) /* known numbers make a fast loop */
                    total = pack_rows(from + k0, stride, PANEL, 64, flip, to, total);
                else
                    total = pack_rows(from + k0, stride, n_rows, k - k0, flip, to, total);
            }
            _mm512_storeu_si512(sums + p * PANEL, total);
        }
    else
        for (int64_t k0 = 0; k0 < k; k0 += TOGETHER)
            for (int64_t p = 0; p < n_panels; p += 4) {
                const int64_t k_len = k - k0 < TOGETHER ? k - k0 : TOGETHER;
                const __mmask64 inside = first(n - p * PANEL);
                const __m512i flips = _mm512_maskz_mov_epi8(inside, flip);
                const uint8_t *from = x + k0 * stride + p * PANEL;
                int8_t *to = panels + p * panel + k0 * PANEL;
                if (p + 4 <= n_panels && k_len == TOGETHER)
                    pack_columns(from, stride, TOGETHER, inside, flips, to, panel, 4, sums + p * PANEL);
                else
                    pack_columns(from, stride, k_len, inside, flips, to, panel, n_panels - p < 4 ? n_panels - p : 4,
                                 sums + p * PANEL);
            }
}

/* sums (BLOCK_ROWS, BLOCK_PANELS, PANEL): products of BLOCK_ROWS left rows and BLOCK_PANELS right panels over `quads`.

   Written out, since compilers copy these registers to and fro, for half of the speed. */
INLINE VNNI void multiply(const int8_t *left, const int8_t *right, int64_t right_panel, int64_t quads, int32_t *sums)
{
#define CLEAR(r) "vpxord %%zmm" #r ", %%zmm" #r ", %%zmm" #r "\n\t"
#define ROW(at, r, s)                                                                                                  \
    "vpbroadcastd " #at "(%[left]), %%zmm2\n\t"                                                                        \
    "vpdpbusd %%zmm2, %%zmm0, %%zmm" #r "\n\t"                                                                         \
    "vpdpbusd %%zmm2, %%zmm1, %%zmm" #s "\n\t"
#define STORE(at, r, s) "vmovdqu32 %%zmm" #r ", " #at "(%[sums])\n\tvmovdqu32 %%zmm" #s ", 64+" #at "(%[sums])\n\t"
    static const uint32_t top = 0x80808080;
    __asm__ volatile(
        "vpbroadcastd %[top], %%zmm3\n\t"
        CLEAR(16) CLEAR(17) CLEAR(18) CLEAR(19) CLEAR(20) CLEAR(21) CLEAR(22) CLEAR(23)
        CLEAR(24) CLEAR(25) CLEAR(26) CLEAR(27) CLEAR(28) CLEAR(29) CLEAR(30) CLEAR(31)
        ".p2align 4\n"
        "1:\n\t"
        "vpxord (%[right]), %%zmm3, %%zmm0\n\t"
        "vpxord (%[right],%[panel]), %%zmm3, %%zmm1\n\t"
        ROW(0, 16, 17) ROW(4, 18, 19) ROW(8, 20, 21) ROW(12, 22, 23)
        ROW(16, 24, 25) ROW(20, 26, 27) ROW(24, 28, 29) ROW(28, 30, 31)
        "add $64, %[left]\n\t"
        "add $64, %[right]\n\t"
        "dec %[quads]\n\t"
        "jnz 1b\n\t"
        STORE(0, 16, 17) STORE(128, 18, 19) STORE(256, 20, 21) STORE(384, 22, 23)
        STORE(512, 24, 25) STORE(640, 26, 27) STORE(768, 28, 29) STORE(896, 30, 31)
        "vzeroupper"
        : [left] "+r"(left), [right] "+r"(right), [quads] "+r"(quads)
        : [panel] "r"(right_panel), [sums] "r"(sums), [top] "m"(top)
        : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
          "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23",
          "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
#undef CLEAR
#undef ROW
#undef STORE
}

/* Add a block of sums to `to`, or put it there; `shifts`, where they are due, are 128 times off again. */
INLINE VNNI void add_block(const int32_t *sums, const int32_t *shifts, int32_t *to, int64_t stride, int64_t rows,
                           int64_t columns, int64_t fresh)
{
    for (int64_t i = 0; i < rows; i++) {
        const __m512i shift = _mm512_set1_epi32(shifts == NULL ? 0 : (int32_t)(0u - 128u * (uint32_t)shifts[i]));
        for (int64_t j = 0; j < BLOCK_PANELS && j * PANEL < columns; j++) {
            const int64_t inside = columns - j * PANEL;
            const __mmask16 mask = inside >= PANEL ? 0xffff : (__mmask16)((1u << inside) - 1);
            int32_t *at = to + i * stride + j * PANEL;
            __m512i value = _mm512_add_epi32(_mm512_loadu_si512(sums + (i * BLOCK_PANELS + j) * PANEL), shift);
            if (!fresh)
                value = _mm512_add_epi32(value, _mm512_maskz_loadu_epi32(mask, at));
            _mm512_mask_storeu_epi32(at, mask, value);
        }
    }
}

/* Where a block of sums will go: all of it comes from far away, and has the time of a block to come. */
INLINE VNNI void prefetch_block(const int32_t *to, int64_t stride, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < BLOCK_PANELS; j++)
            _mm_prefetch((const char *)(to + i * stride + j * PANEL), _MM_HINT_T0);
}

VNNI void add_product(const int8_t *left, const int32_t *left_sums, const int8_t *right, int32_t *total,
                      int64_t m, int64_t n, int64_t k, int64_t lower, int64_t fresh)
{
    const int64_t quads = (k + 3) / 4, panel = quads * 4 * PANEL, n_panels = (n + PANEL - 1) / PANEL;
    const int64_t n_rows = cache_block().n_rows, most_quads = cache_block().k_len / 4;
    for (int64_t quad = 0; quad < quads; quad += most_quads) {
        const int64_t n_quads = quads - quad < most_quads ? quads - quad : most_quads;
        for (int64_t top = 0; top < m; top += n_rows) {
            const int64_t bottom = top + n_rows < m ? top + n_rows : m;
            for (int64_t j = 0; j < n_panels; j += BLOCK_PANELS) {
                const int8_t *b = right + j * panel + quad * 4 * PANEL;
                const int64_t columns = n - j * PANEL, next = j + 1 < n_panels ? panel : 0;
                for (int64_t i = top; i < bottom; i += BLOCK_ROWS) {
                    int32_t sums[BLOCK_ROWS * BLOCK_PANELS * PANEL];
                    if (lower && j * PANEL >= i + BLOCK_ROWS) /* all of it is above the diagonal */
                        continue;
                    prefetch_block(total + i * n + j * PANEL, n, m - i < BLOCK_ROWS ? m - i : BLOCK_ROWS);
                    multiply(left + i / PANEL * panel + (quad * PANEL + i % PANEL) * 4, b, next, n_quads, sums);
                    add_block(sums, quad == 0 ? left_sums + i : NULL, total + i * n + j * PANEL, n,
                              m - i < BLOCK_ROWS ? m - i : BLOCK_ROWS, columns, fresh && quad == 0);
                }
            }
        }
    }
}

#else

int64_t panels_known(void)
{
    return 0;
}

void pack(const uint8_t *x, int8_t *panels, int32_t *sums, int64_t stride, int64_t n, int64_t k,
          int64_t by_row, int64_t flipped)
{
    (void)x, (void)panels, (void)sums, (void)stride, (void)n, (void)k, (void)by_row, (void)flipped;
}

void add_product(const int8_t *left, const int32_t *left_sums, const int8_t *right, int32_t *total, int64_t m,
                 int64_t n, int64_t k, int64_t lower, int64_t fresh)
{
    (void)left, (void)left_sums, (void)right, (void)total, (void)m, (void)n, (void)k, (void)lower,
        (void)fresh;
}

#endif
