/* Loops that would be many passes for numpy. What they do, and the shapes of their arguments: ../loops.py.

   Every loop over `column` is written so that a compiler makes vectors of it. */

#include <math.h>
#include <stdint.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
/* Compiled three times; the loader takes the widest that the processor knows. */
#define EVERY_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_WIDTH
#endif

const char made_from[] = MADE_FROM; /* the digest of this file */

enum { COLUMNS = 512 }; /* looked at together: their three running values stay in the first-level cache */

EVERY_WIDTH
void two_least(const float *score, const float *add, const int64_t *ends, const float *reach, const int32_t *barred,
               int32_t *label, int32_t *close, int64_t *n_close, int64_t n_sets, int64_t n_barred, int64_t n_rows,
               int64_t start, int64_t n)
{
    float least[COLUMNS], second[COLUMNS];
    int32_t name[COLUMNS];

    for (int64_t set = 0; set < n_sets; set++) {
        const int32_t *not_these = barred + (n_barred > 1 ? set : 0) * n_rows + start;
        int32_t *found = close + set * n_rows;
        for (int64_t from = 0; from < n; from += COLUMNS) {
            const int64_t columns = n - from < COLUMNS ? n - from : COLUMNS;
            for (int64_t column = 0; column < columns; column++) {
                least[column] = second[column] = INFINITY;
                name[column] = 0;
            }
            for (int64_t number = ends[set]; number < ends[set + 1]; number++) {
                const float *row = score + number * n + from;
                const float own = add[number];
                const int32_t this = (int32_t)(number - ends[set]);
                for (int64_t column = 0; column < columns; column++) {
                    const float seen = row[column] + own;
                    const float value = not_these[from + column] == this ? INFINITY : seen;
                    const float best = least[column];
                    const float other = value < best ? best : value;
                    second[column] = other < second[column] ? other : second[column];
                    name[column] = value < best ? this : name[column];
                    least[column] = value < best ? value : best;
                }
            }
            for (int64_t column = 0; column < columns; column++) {
                label[set * n_rows + start + from + column] = name[column];
                if (second[column] - least[column] <= reach[set])
                    found[n_close[set]++] = (int32_t)(start + from + column);
            }
        }
    }
}

EVERY_WIDTH
void spread(const double *x, const int64_t *starts, const int64_t *targets, const double *factors, double *sums,
            double *weights, int64_t *counts, int64_t n_rows, int64_t n_columns)
{
    for (int64_t row = 0; row < n_rows; row++) {
        for (int64_t place = starts[row]; place < starts[row + 1]; place++) {
            const double factor = factors[place];
            double *sum = sums + targets[place] * n_columns;
            for (int64_t column = 0; column < n_columns; column++)
                sum[column] += factor * x[row * n_columns + column];
            weights[targets[place]] += factor;
            counts[targets[place]] += (factor > 0) - (factor < 0);
        }
    }
}

EVERY_WIDTH
void pixel_sums(const uint8_t *x, uint32_t *sums, uint64_t *squares, int64_t n_rows, int64_t n_columns)
{
    enum { CACHE_BLOCK = 4096 }; /* columns whose sums stay in the first-level cache; their squares are below 2^32 */
    for (int64_t first = 0; first < n_columns; first += CACHE_BLOCK) {
        const int64_t n = n_columns - first < CACHE_BLOCK ? n_columns - first : CACHE_BLOCK;
        uint32_t *sum = sums + first;
        for (int64_t row = 0; row < n_rows; row++) {
            const uint8_t *values = x + row * n_columns + first;
            uint32_t square = 0;
            for (int64_t column = 0; column < n; column++) {
                const uint32_t value = values[column];
                sum[column] += value;
                square += value * value;
            }
            *squares += square;
        }
    }
}

EVERY_WIDTH
void add_scaled(float *to, const int32_t *product, const float *scale, int64_t n_rows, int64_t n_columns,
                int64_t by_row)
{
    for (int64_t row = 0; row < n_rows; row++) {
        float *sum = to + row * n_columns;
        const int32_t *values = product + row * n_columns;
        if (by_row)
            for (int64_t column = 0; column < n_columns; column++)
                sum[column] += (float)values[column] * scale[row];
        else
            for (int64_t column = 0; column < n_columns; column++)
                sum[column] += (float)values[column] * scale[column];
    }
}
