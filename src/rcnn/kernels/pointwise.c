/* 1x1 convolutions and what follows them, for prediction.

   Each tile of results is a product of a few rows of cells with a panel of kernels. Bias, a map to be added and
   the activation are applied while it is in registers: no map is read or written twice for them.

   Legend: B images, H x W their size, C channels in, K channels out, h x w the size of the result. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

enum { TILES = 4 };         /* at a time with one panel, so that it is read from a cache */
enum { NUMBERS = 1 << 16 }; /* of their inputs at most: 256 KB */

/* Where torch's "nearest" looks for cell i of `length` in a map of `from` cells. */
static inline int64_t nearest(int64_t i, int64_t length, int64_t from) {
    const int64_t found = length == from ? i : (int64_t)floorf(i * ((float)from / length));
    return found < from ? found : from - 1;
}

/* results [ROWS][WIDE] of a tile; the strides are those of rows. `addends`, if any, are the tile's own, [ROWS]. */
static void tile(const float *inputs, int64_t input_stride, const float *kernels, int64_t channels, const float *bias,
                 const float *const *addends, int64_t column, int activation, float *results, int64_t result_stride) {
    vector sums[ROWS][2];
    if (addends)
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            __builtin_prefetch(addends[r] + column);
            __builtin_prefetch(addends[r] + column + LANES);
        }
    multiply(inputs, input_stride, kernels, channels, sums);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            vector value = sums[r][half] + load(bias + half * LANES);
            if (addends) value += load(addends[r] + column + half * LANES);
            store(results + r * result_stride + half * LANES, activate(value, activation));
        }
}

/* output [B, h, w, K] of images [B, H, W, C], kernels [ceil(K / WIDE)][C][WIDE] and bias [ceil(K / WIDE)][WIDE],
   both filled up with zeros; addend [B, addend_height, addend_width, K], resized by nearest, or NULL.
   Returns 0, or 1 where there is no memory. */
int KERNEL(rcnn_pointwise)(const float *images, int64_t batch, int64_t height, int64_t width, int64_t channels,
                           int64_t stride, const float *kernels, const float *bias, int64_t outputs,
                           const float *addend, int64_t addend_height, int64_t addend_width, int activation,
                           float *output, int threads) {
    const int64_t down = (height - 1) / stride + 1, across = (width - 1) / stride + 1, total = batch * down * across;
    /* A few numbers more a row: rows a power of two apart would share too few lines of the cache. */
    const int64_t input_stride = channels + LANES;
    int64_t tiles = total / (4 * ROWS * threads);
    if (tiles > NUMBERS / (ROWS * input_stride)) tiles = NUMBERS / (ROWS * input_stride);
    tiles = tiles < 1 ? 1 : tiles > TILES ? TILES : tiles;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        float *const inputs = malloc(sizeof(float) * tiles * ROWS * input_stride);
        if (!inputs) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t first = 0; first < total; first += tiles * ROWS) {
            if (!inputs) continue;
            const int64_t rows = total - first < tiles * ROWS ? total - first : tiles * ROWS;
            const float *addends[TILES * ROWS] = {0};
            for (int64_t r = 0; r < (rows + ROWS - 1) / ROWS * ROWS; r++) {
                const int64_t row = first + (r < rows ? r : 0), image = row / (down * across); /* any row fills up */
                const int64_t y = row / across % down, x = row % across;
                memcpy(inputs + r * input_stride,
                       images + ((image * height + y * stride) * width + x * stride) * channels,
                       sizeof(float) * channels);
                if (addend)
                    addends[r] = addend + ((image * addend_height + nearest(y, down, addend_height)) * addend_width +
                                           nearest(x, across, addend_width)) * outputs;
            }
            for (int64_t k = 0; k < outputs; k += WIDE)
                for (int64_t r = 0; r < rows; r += ROWS) {
                    const float *const *const added = addend ? addends + r : NULL;
                    const float *const from = inputs + r * input_stride, *const panel = kernels + k * channels;
                    float *const to = output + (first + r) * outputs + k;
                    const int64_t filled = rows - r < ROWS ? rows - r : ROWS;
                    const int64_t wide = outputs - k < WIDE ? outputs - k : WIDE;
                    if (filled == ROWS && wide == WIDE) {
                        tile(from, input_stride, panel, channels, bias + k, added, k, activation, to, outputs);
                        continue;
                    }
                    /* At the edges by way of whole tiles: nothing beyond the maps is read or written. */
                    float result[ROWS][WIDE], edge[ROWS][WIDE] = {0};
                    const float *edges[ROWS];
                    for (int i = 0; i < ROWS; i++) {
                        edges[i] = edge[i];
                        if (addend) memcpy(edge[i], added[i] + k, sizeof(float) * wide);
                    }
                    tile(from, input_stride, panel, channels, bias + k, addend ? edges : NULL, 0, activation, result[0],
                         WIDE);
                    for (int i = 0; i < filled; i++) memcpy(to + i * outputs, result[i], sizeof(float) * wide);
                }
        }
        free(inputs);
    }
    return failed;
}
