/* Exact products of 8-bit matrices for processors with AVX-512 VNNI. Arguments and shapes: ../panels.py.

   Both operands lie in panels, in the order in which they are read: 16 units, four terms of each together.

       unit 0: t0 t1 t2 t3 | unit 1: t0 t1 t2 t3 | ... | unit 15 || unit 0: t4 t5 t6 t7 | ...

   One instruction multiplies 64 pairs of bytes and adds them by fours: four terms of one unit of the left, repeated,
   with four terms of 16 units of the right. It takes one side unsigned, so the right becomes y + 128, and 128 times the
   sum of every left unit is taken off again. All sums are modulo 2^32, and what fits an int32 comes out exact. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define INLINE static inline __attribute__((always_inline))

enum {
    PANEL = 16,
    ROWS = 8, /* left units and right panels of one block of sums, which stay in 16 registers */
    STRIP = 2,
};

/* What stays in the second-level cache while strips of the right pass by: some left units, of some terms. The less it
   is, the more often strips come from the third level. On AMD's, which is near, a single panel of the left is the
   fastest (Zen 5: 970 against 892 Gop/s a core, both busy); on Intel's, which is far, a mebibyte of it (Xeon, 8 cores
   busy: 375 against 262). */
typedef struct {
    int64_t units, terms;
} Kept;

static Kept kept(void)
{
    return __builtin_cpu_is("amd") ? (Kept){PANEL, 8192} : (Kept){256, 4096};
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

/* Four terms of a panel's units whose terms lie apart: rows of 16 bytes become 16 columns of four. */
INLINE void pack_square(const uint8_t *x, int64_t stride, int8_t *to, __m128i flip)
{
    const __m128i t0 = _mm_loadu_si128((const __m128i *)x), t1 = _mm_loadu_si128((const __m128i *)(x + stride));
    const __m128i t2 = _mm_loadu_si128((const __m128i *)(x + 2 * stride));
    const __m128i t3 = _mm_loadu_si128((const __m128i *)(x + 3 * stride));
    const __m128i a = _mm_unpacklo_epi8(t0, t1), b = _mm_unpackhi_epi8(t0, t1);
    const __m128i c = _mm_unpacklo_epi8(t2, t3), d = _mm_unpackhi_epi8(t2, t3);
    _mm_storeu_si128((__m128i *)to, _mm_xor_si128(_mm_unpacklo_epi16(a, c), flip));
    _mm_storeu_si128((__m128i *)(to + 16), _mm_xor_si128(_mm_unpackhi_epi16(a, c), flip));
    _mm_storeu_si128((__m128i *)(to + 32), _mm_xor_si128(_mm_unpacklo_epi16(b, d), flip));
    _mm_storeu_si128((__m128i *)(to + 48), _mm_xor_si128(_mm_unpackhi_epi16(b, d), flip));
}

/* Any units and terms, byte by byte: the edges. */
static void pack_edge(const uint8_t *x, int64_t unit_stride, int64_t term_stride, int64_t units, int64_t first,
                      int64_t n_terms, uint8_t flip, int8_t *panel)
{
    for (int64_t term = first; term < n_terms; term++)
        for (int64_t unit = 0; unit < units; unit++)
            panel[(term / 4 * PANEL + unit) * 4 + term % 4] = (int8_t)(x[unit * unit_stride + term * term_stride] ^ flip);
}

/* Sixteen terms of four units whose terms lie together. */
INLINE void pack_four(const uint8_t *x, int64_t stride, int8_t *to, __m128i flip)
{
    const __m128i u0 = _mm_loadu_si128((const __m128i *)x), u1 = _mm_loadu_si128((const __m128i *)(x + stride));
    const __m128i u2 = _mm_loadu_si128((const __m128i *)(x + 2 * stride));
    const __m128i u3 = _mm_loadu_si128((const __m128i *)(x + 3 * stride));
    const __m128i a = _mm_unpacklo_epi32(u0, u1), b = _mm_unpackhi_epi32(u0, u1);
    const __m128i c = _mm_unpacklo_epi32(u2, u3), d = _mm_unpackhi_epi32(u2, u3);
    _mm_storeu_si128((__m128i *)to, _mm_xor_si128(_mm_unpacklo_epi64(a, c), flip));
    _mm_storeu_si128((__m128i *)(to + 4 * PANEL), _mm_xor_si128(_mm_unpackhi_epi64(a, c), flip));
    _mm_storeu_si128((__m128i *)(to + 8 * PANEL), _mm_xor_si128(_mm_unpacklo_epi64(b, d), flip));
    _mm_storeu_si128((__m128i *)(to + 12 * PANEL), _mm_xor_si128(_mm_unpackhi_epi64(b, d), flip));
}

INLINE void pack_quads(const uint8_t *x, int64_t stride, int64_t units, int64_t first, int64_t last, uint32_t flip,
                       int8_t *panel)
{
    for (int64_t unit = 0; unit < units; unit++) {
        const uint8_t *row = x + unit * stride;
        for (int64_t quad = first; quad < last; quad++) {
            uint32_t four;
            memcpy(&four, row + 4 * quad, 4);
            four ^= flip;
            memcpy(panel + (quad * PANEL + unit) * 4, &four, 4);
        }
    }
}

VNNI void pack(const uint8_t *x, int8_t *panels, int32_t *sums, int64_t stride, int64_t n_units, int64_t n_terms,
               int64_t by_row, int64_t flipped)
{
    enum { TOGETHER = 64 }; /* quads whose 16 units stay in the first-level cache; panels that share cache lines of x */
    const int64_t quads = (n_terms + 3) / 4, whole = n_terms / 4, n_panels = (n_units + PANEL - 1) / PANEL;
    const uint8_t flip = flipped ? 0x80 : 0;
    const __m128i flips = _mm_set1_epi8((char)flip);
    for (int64_t p = 0; p < n_panels; p++) {
        const int64_t units = n_units - p * PANEL < PANEL ? n_units - p * PANEL : PANEL;
        int8_t *panel = panels + p * quads * 4 * PANEL;
        if (units < PANEL)
            memset(panel, 0, quads * 4 * PANEL);
        else if (whole < quads)
            memset(panel + whole * 4 * PANEL, 0, 4 * PANEL);
        if (by_row) {
            const int64_t fours = units == PANEL ? whole / 4 * 4 : 0;
            for (int64_t from = 0; from < fours; from += TOGETHER)
                for (int64_t unit = 0; unit < PANEL; unit += 4)
                    for (int64_t quad = from; quad < from + TOGETHER && quad < fours; quad += 4)
                        pack_four(x + (p * PANEL + unit) * stride + 4 * quad, stride, panel + (quad * PANEL + unit) * 4,
                                  flips);
            pack_quads(x + p * PANEL * stride, stride, units, fours, whole, 0x01010101u * flip, panel);
            pack_edge(x + p * PANEL * stride, stride, 1, units, whole * 4, n_terms, flip, panel);
        } else {
            const int64_t first = units == PANEL ? whole * 4 : 0;
            pack_edge(x + p * PANEL, 1, stride, units, first, n_terms, flip, panel);
        }
    }
    if (!by_row)
        for (int64_t p = 0; p < n_units / PANEL; p += 4) /* a cache line of x is four panels wide */
            for (int64_t quad = 0; quad < whole; quad++)
                for (int64_t q = p; q < p + 4 && q < n_units / PANEL; q++)
                    pack_square(x + 4 * quad * stride + q * PANEL, stride, panels + (q * quads + quad) * 4 * PANEL,
                                flips);
    for (int64_t p = 0; p < n_panels; p++) {
        __m512i sum = _mm512_setzero_si512();
        for (int64_t quad = 0; quad < quads; quad++)
            sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1),
                                      _mm512_loadu_si512(panels + (p * quads + quad) * 4 * PANEL));
        _mm512_storeu_si512(sums + p * PANEL, sum);
    }
}

/* sums (ROWS, STRIP, PANEL): products of ROWS left units and STRIP right panels over some quads of terms.

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
        : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
          "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
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
        for (int64_t j = 0; j < STRIP && j * PANEL < columns; j++) {
            const int64_t inside = columns - j * PANEL;
            const __mmask16 mask = inside >= PANEL ? 0xffff : (__mmask16)((1u << inside) - 1);
            int32_t *at = to + i * stride + j * PANEL;
            __m512i value = _mm512_add_epi32(_mm512_loadu_si512(sums + (i * STRIP + j) * PANEL), shift);
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
        for (int64_t j = 0; j < STRIP; j++)
            _mm_prefetch((const char *)(to + i * stride + j * PANEL), _MM_HINT_T0);
}

VNNI void add_product(const int8_t *left, const int32_t *left_sums, const int8_t *right, int32_t *total,
                      int64_t n_left, int64_t n_right, int64_t n_terms, int64_t lower, int64_t fresh)
{
    const int64_t quads = (n_terms + 3) / 4, panel = quads * 4 * PANEL, n_panels = (n_right + PANEL - 1) / PANEL;
    const int64_t units = kept().units, most_quads = kept().terms / 4;
    for (int64_t quad = 0; quad < quads; quad += most_quads) {
        const int64_t n_quads = quads - quad < most_quads ? quads - quad : most_quads;
        for (int64_t top = 0; top < n_left; top += units) {
            const int64_t bottom = top + units < n_left ? top + units : n_left;
            for (int64_t j = 0; j < n_panels; j += STRIP) {
                const int8_t *b = right + j * panel + quad * 4 * PANEL;
                const int64_t columns = n_right - j * PANEL, next = j + 1 < n_panels ? panel : 0;
                for (int64_t i = top; i < bottom; i += ROWS) {
                    int32_t sums[ROWS * STRIP * PANEL];
                    if (lower && j * PANEL >= i + ROWS) /* all of it is above the diagonal */
                        continue;
                    prefetch_block(total + i * n_right + j * PANEL, n_right, n_left - i < ROWS ? n_left - i : ROWS);
                    multiply(left + i / PANEL * panel + (quad * PANEL + i % PANEL) * 4, b, next, n_quads, sums);
                    add_block(sums, quad == 0 ? left_sums + i : NULL, total + i * n_right + j * PANEL, n_right,
                              n_left - i < ROWS ? n_left - i : ROWS, columns, fresh && quad == 0);
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

void pack(const uint8_t *x, int8_t *panels, int32_t *sums, int64_t stride, int64_t n_units, int64_t n_terms,
          int64_t by_row, int64_t flipped)
{
    (void)x, (void)panels, (void)sums, (void)stride, (void)n_units, (void)n_terms, (void)by_row, (void)flipped;
}

void add_product(const int8_t *left, const int32_t *left_sums, const int8_t *right, int32_t *total, int64_t n_left,
                 int64_t n_right, int64_t n_terms, int64_t lower, int64_t fresh)
{
    (void)left, (void)left_sums, (void)right, (void)total, (void)n_left, (void)n_right, (void)n_terms, (void)lower,
        (void)fresh;
}

#endif
