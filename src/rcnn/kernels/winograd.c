/* Winograd's F(4x4, 3x3) in one pass. The algorithm is that of rcnn.layers.winograd.

   The tiles go through in turns small enough for the caches. Each turn has three steps that the threads share:
   36 inputs of each tile, their products with the kernels, the results of each tile.

   Legend: B images, H x W their size, C channels in, K channels out, T tiles of a turn. */

#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/mman.h>

#include "vectors.h"

enum { POINTS = 36 };
enum { SLICE = 56 / ROWS * ROWS }; /* tiles that a thread multiplies at a time */
enum { TURN = 1 << 20 };           /* numbers that a turn of up to seven threads writes: 4 MB */

/* Sizes that the caller must keep to: C a multiple of the first, K of the second. */
int KERNEL(rcnn_lanes)(void) { return LANES; }
int KERNEL(rcnn_wide)(void) { return WIDE; }

/* Memory in pages of 2 MB, where the system has them: a tile's 36 points lie in as many places. */
static float *allocate(int64_t numbers) {
    const size_t page = 1 << 21, size = (sizeof(float) * numbers + page - 1) / page * page;
    float *const memory = aligned_alloc(page, size);
    if (memory) madvise(memory, size, MADV_HUGEPAGE);
    return memory;
}

/* One axis of a tile: the table _INPUT of rcnn.layers.winograd. */
static inline void map_input(const vector d[6], vector to[6]) {
    const vector even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
    const vector even_2 = d[4] - d[2], odd_2 = 2 * (d[3] - d[1]);
    to[0] = 4 * d[0] - 5 * d[2] + d[4];
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = even_2 + odd_2;
    to[4] = even_2 - odd_2;
    to[5] = 4 * d[1] - 5 * d[3] + d[5];
}

/* One axis of a tile: the table _OUTPUT. */
static inline void map_output(const vector m[6], vector to[4]) {
    const vector even = m[1] + m[2], odd = m[1] - m[2], even_2 = m[3] + m[4], odd_2 = m[3] - m[4];
    to[0] = m[0] + even + even_2;
    to[1] = odd + 2 * odd_2;
    to[2] = even + 4 * even_2;
    to[3] = odd + 8 * odd_2 + m[5];
}

/* The inputs [36][C] of a tile, `step` numbers between the points, of the 36 cells [C] of its images. */
static void transform(const float *const cells[POINTS], int64_t channels, float *inputs, int64_t step) {
    for (int64_t c = 0; c < channels; c += LANES) {
        vector rows[6][6];
        for (int i = 0; i < 6; i++) {
            vector cell[6];
            for (int j = 0; j < 6; j++) cell[j] = load(cells[6 * i + j] + c);
            map_input(cell, rows[i]);
        }
        for (int j = 0; j < 6; j++) {
            const vector column[6] = {rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]};
            vector both[6];
            map_input(column, both);
            for (int i = 0; i < 6; i++) store(inputs + (6 * i + j) * step + c, both[i]);
        }
    }
}

/* products [ROWS][WIDE] of inputs [ROWS][C] and kernels [C][WIDE]; the strides are those of the rows. */
static void products_of(const float *inputs, int64_t input_stride, const float *kernels, int64_t channels,
                        float *products, int64_t product_stride) {
    vector sums[ROWS][2];
    multiply(inputs, input_stride, kernels, channels, sums);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        store(products + r * product_stride, sums[r][0]);
        store(products + r * product_stride + LANES, sums[r][1]);
    }
}

/* The 4 x 4 results of LANES channels, of products `step` numbers apart. */
static inline void finish(const float *products, int64_t step, vector shift, vector results[4][4]) {
    vector rows[6][4];
    for (int i = 0; i < 6; i++) {
        vector product[6];
        for (int j = 0; j < 6; j++) product[j] = load(products + (6 * i + j) * step);
        map_output(product, rows[i]);
    }
    for (int j = 0; j < 4; j++) {
        const vector column[6] = {rows[0][j], rows[1][j], rows[2][j], rows[3][j], rows[4][j], rows[5][j]};
        vector both[4];
        map_output(column, both);
        for (int i = 0; i < 4; i++) results[i][j] = both[i] + shift;
    }
}

/* output [B, H, W, K] of images [B, H, W, C] and kernels [36][K / WIDE][C][WIDE]; bias [K] and addend [B, H, W, K],
   each or NULL.
   Returns 0, or 1 where there is no memory. */
int KERNEL(rcnn_winograd)(const float *images, int64_t batch, int64_t height, int64_t width, int64_t channels,
                          const float *kernels, const float *bias, int64_t outputs, const float *addend, int rectify,
                          float *output, int threads) {
    const int64_t down = (height + 3) / 4, across = (width + 3) / 4, total = batch * down * across;
    /* A few numbers more a row: rows a power of two apart would share too few lines of the cache. */
    const int64_t input_stride = channels + LANES, product_stride = outputs + LANES, panels = outputs / WIDE;
    int64_t most = (int64_t)TURN * (1 + threads / 8) / (POINTS * (channels + outputs)) / ROWS * ROWS;
    if (most > total) most = (total + ROWS - 1) / ROWS * ROWS;
    if (most < ROWS) most = ROWS;
    const int64_t input_step = most * input_stride, product_step = most * product_stride;
    float *const zeros = calloc(channels, sizeof(float));
    float *const inputs = allocate(POINTS * input_step);     /* [36][T][C] */
    float *const products = allocate(POINTS * product_step); /* [36][T][K] */
    const int failed = !zeros || !inputs || !products;
#pragma omp parallel num_threads(threads) if (!failed)
    for (int64_t first = 0; first < (failed ? 0 : total); first += most) {
        const int64_t tiles = total - first < most ? total - first : most;
        const int64_t filled = (tiles + ROWS - 1) / ROWS * ROWS; /* zeros behind the last tile */
#pragma omp for schedule(static)
        for (int64_t t = 0; t < filled; t++) {
            const int64_t tile = first + t, image = tile / (down * across);
            const int64_t top = tile / across % down * 4 - 1, left = tile % across * 4 - 1;
            const float *cells[POINTS];
            for (int i = 0; i < POINTS; i++) {
                const int64_t y = top + i / 6, x = left + i % 6;
                const int inside = t < tiles && y >= 0 && y < height && x >= 0 && x < width;
                cells[i] = inside ? images + ((image * height + y) * width + x) * channels : zeros;
            }
            transform(cells, channels, inputs + t * input_stride, input_step);
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int point = 0; point < POINTS; point++)
            for (int64_t slice = 0; slice < filled; slice += SLICE)
                for (int64_t t = slice; t < filled && t < slice + SLICE; t += ROWS)
                    for (int64_t panel = 0; panel < panels; panel++)
                        products_of(inputs + point * input_step + t * input_stride, input_stride,
                                    kernels + (point * panels + panel) * channels * WIDE, channels,
                                    products + point * product_step + t * product_stride + panel * WIDE,
                                    product_stride);
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t tile = first + t, image = tile / (down * across);
            const int64_t top = tile / across % down * 4, left = tile % across * 4;
            for (int64_t k = 0; k < outputs; k += LANES) {
                vector results[4][4];
                finish(products + t * product_stride + k, product_step, bias ? load(bias + k) : all(0), results);
                for (int i = 0; i < 4 && top + i < height; i++)
                    for (int j = 0; j < 4 && left + j < width; j++) {
                        const int64_t place = ((image * height + top + i) * width + left + j) * outputs + k;
                        vector value = results[i][j];
                        if (addend) value += load(addend + place);
                        store(output + place, rectify ? relu(value) : value);
                    }
            }
        }
    }
    free(zeros);
    free(inputs);
    free(products);
    return failed;
}
