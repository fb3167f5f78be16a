/* Depthwise convolutions with padding and activation in the same pass, for prediction.

   Cells beyond the border are left out of the sums, so that no padded copy of the maps is made, whatever the padding
   is on each side.

   Legend: B images, H x W their size, C channels, S the kernels' side, h x w the size of the result. */

#include "vectors.h"

enum { COLUMNS = 8 }; /* results of a row whose sums are in registers */
enum { BLOCK = 4 };   /* vectors of channels that go through a row together */

#define INLINE static inline __attribute__((always_inline))

/* The rows of the maps that a row of results is summed of. */
struct rows {
    const float *first; /* cell 0 of row `from`'s place */
    int64_t from, to;   /* the rows of the kernel that lie inside the map */
    int64_t row, cell;  /* numbers between rows and between cells */
};

/* COLUMNS results of LANES channels, all of whose cells lie inside the map; x is the first cell's column. */
INLINE void tile(const struct rows rows, int64_t x, const float *kernels, int64_t channels, vector shift, int side,
                 int stride, int activation, float *output) {
    vector sums[COLUMNS];
#pragma GCC unroll 8
    for (int j = 0; j < COLUMNS; j++) sums[j] = shift;
    for (int64_t i = rows.from; i < rows.to; i++) {
        const float *const line = rows.first + i * rows.row + x * rows.cell;
        for (int k = 0; k < side; k++) {
            const vector weight = load(kernels + (i * side + k) * channels);
#pragma GCC unroll 8
            for (int j = 0; j < COLUMNS; j++) sums[j] += load(line + (j * stride + k) * rows.cell) * weight;
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < COLUMNS; j++) store(output + j * channels, activate(sums[j], activation));
}

/* One result of LANES channels; the cells from column x on may lie outside. */
INLINE void single(const struct rows rows, int64_t x, int64_t width, const float *kernels, int64_t channels,
                   vector shift, int side, int activation, float *output) {
    vector sum = shift;
    for (int64_t i = rows.from; i < rows.to; i++)
        for (int k = 0; k < side; k++)
            if (x + k >= 0 && x + k < width)
                sum += load(rows.first + i * rows.row + (x + k) * rows.cell) *
                       load(kernels + (i * side + k) * channels);
    store(output, activate(sum, activation));
}

INLINE int64_t clamp(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

INLINE void convolve(const float *images, int64_t batch, int64_t height, int64_t width, int64_t channels,
                     const float *kernels, const float *bias, int side, int stride, int64_t top, int64_t left,
                     int64_t down, int64_t across, int activation, float *output, int threads) {
    /* The columns of results whose cells all lie inside. */
    const int64_t begin = clamp((left + stride - 1) / stride, 0, across);
    const int64_t last = width - side + left; /* the last cell where a kernel may begin */
    const int64_t end = clamp(last < 0 ? 0 : last / stride + 1, begin, across);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < batch * down; r++) {
        const int64_t y = r % down * stride - top;
        for (int64_t c = 0; c < channels; c += BLOCK * LANES) {
            const int64_t stop = channels - c < BLOCK * LANES ? channels : c + BLOCK * LANES;
            const struct rows rows = {images + (r / down * height + y) * width * channels, clamp(-y, 0, side),
                                      clamp(height - y, 0, side), width * channels, channels};
            float *const to = output + r * across * channels;
            for (int64_t x = 0; x < across;) {
                const int many = x >= begin && x < end && end - begin >= COLUMNS;
                /* The last tile repeats some results rather than leave a few. */
                const int64_t column = many && x > end - COLUMNS ? end - COLUMNS : x;
                for (int64_t from = c; from < stop; from += LANES) {
                    const int64_t v = from + LANES > channels ? channels - LANES : from; /* as with columns */
                    struct rows own = rows;
                    own.first += v;
                    const vector shift = bias ? load(bias + v) : all(0);
                    float *const place = to + column * channels + v;
                    const int64_t at = column * stride - left;
                    if (many)
                        tile(own, at, kernels + v, channels, shift, side, stride, activation, place);
                    else
                        single(own, at, width, kernels + v, channels, shift, side, activation, place);
                }
                x = column + (many ? COLUMNS : 1);
            }
        }
    }
}

/* output [B, h, w, C] of images [B, H, W, C], C at least LANES, kernels [S * S][C], and bias [C] or NULL; top and
   left are the zeros before the first row and column.
   Returns 0, or 1 for sides and strides other than 3 or 5 and 1 or 2. */
int KERNEL(rcnn_depthwise)(const float *images, int64_t batch, int64_t height, int64_t width, int64_t channels,
                           const float *kernels, const float *bias, int64_t side, int64_t stride, int64_t top,
                           int64_t left, int64_t down, int64_t across, int activation, float *output, int threads) {
#define CASE(S, T)                                                                                                  \
    if (side == S && stride == T)                                                                                   \
        return convolve(images, batch, height, width, channels, kernels, bias, S, T, top, left, down, across,       \
                        activation, output, threads),                                                               \
               0;
    CASE(3, 1)
    CASE(3, 2)
    CASE(5, 1)
    CASE(5, 2)
#undef CASE
    return 1;
}
