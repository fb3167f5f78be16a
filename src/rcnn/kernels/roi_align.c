/* RoIAlign over the levels of a pyramid, for prediction.

   The same samples and weights as rcnn.ops.roi, each bin summed in registers and written where it belongs.

   Legend: L levels, R regions, B images, C channels, P the output's side, S samples of a bin along an axis. */

#include <math.h>
#include <stdlib.h>

#include "vectors.h"

enum { BLOCK = 4 }; /* vectors of channels that are summed at a time */

/* Where a corner of a sample lies along one axis, and what it counts for. */
struct corner {
    int64_t at;
    float weight;
};

/* corners [P S][2] of the samples between low and high on a map of `length` cells. */
static void find_corners(float low, float high, int64_t length, int64_t samples, float weight, int aligned,
                         struct corner *corners) {
    float extent = high - low;
    if (!aligned && extent < 1) extent = 1;
    for (int64_t i = 0; i < samples; i++) {
        const float at = low + (i + 0.5f) / samples * extent;
        const float share = at >= -1 && at <= length ? weight : 0; /* nothing beyond the border */
        float inside = at > 0 ? at : 0;                            /* 0 for what is not a number, too */
        if (inside > length - 1) inside = length - 1;
        const int64_t first = (int64_t)inside;
        const float fraction = inside - first;
        corners[2 * i] = (struct corner){first, (1 - fraction) * share};
        corners[2 * i + 1] = (struct corner){first + 1 < length ? first + 1 : length - 1, fraction * share};
    }
}

/* output [R, P, P, C] of maps: L pointers to [B, H, W, C], C a multiple of LANES; sizes [L, 2] are H and W, scales [L]
   cells a pixel; rois [R, 4], images and levels [R].
   Returns 0, 1 where there is no memory, 2 where an image or a level does not exist. */
int KERNEL(rcnn_roi_align)(const float *const *maps, const int64_t *sizes, const float *scales, int64_t count,
                           int64_t batch, int64_t channels, const float *rois, const int64_t *images,
                           const int64_t *levels, int64_t regions, int64_t side, int64_t samples, int aligned,
                           float *output, int threads) {
    for (int64_t r = 0; r < regions; r++)
        if (images[r] < 0 || images[r] >= batch || levels[r] < 0 || levels[r] >= count) return 2;
    const int64_t points = side * samples, corners = 2 * samples;
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        struct corner *const rows = malloc(sizeof(struct corner) * 4 * points), *const columns = rows + 2 * points;
        if (!rows) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 4)
        for (int64_t r = 0; r < regions; r++) {
            if (!rows) continue;
            const int64_t height = sizes[2 * levels[r]], width = sizes[2 * levels[r] + 1];
            const float *const map = maps[levels[r]] + images[r] * height * width * channels;
            float box[4];
            for (int i = 0; i < 4; i++) box[i] = rois[4 * r + i] * scales[levels[r]] - (aligned ? 0.5f : 0);
            find_corners(box[1], box[3], height, points, 1.0f / samples, aligned, rows);
            find_corners(box[0], box[2], width, points, 1.0f / samples, aligned, columns);
            for (int64_t bin = 0; bin < side * side; bin++) {
                const struct corner *const y = rows + bin / side * corners, *const x = columns + bin % side * corners;
                float *const to = output + (r * side * side + bin) * channels;
                for (int64_t c = 0; c < channels; c += BLOCK * LANES) {
                    const int vectors = channels - c < BLOCK * LANES ? (int)((channels - c) / LANES) : BLOCK;
                    vector sums[BLOCK] = {0};
                    for (int64_t i = 0; i < corners; i++)
                        for (int64_t j = 0; j < corners; j++) {
                            const float *const cell = map + (y[i].at * width + x[j].at) * channels + c;
                            const vector weight = all(y[i].weight * x[j].weight);
                            if (vectors == BLOCK)
#pragma GCC unroll 4
                                for (int v = 0; v < BLOCK; v++) sums[v] += weight * load(cell + v * LANES);
                            else
                                for (int v = 0; v < vectors; v++) sums[v] += weight * load(cell + v * LANES);
                        }
                    for (int v = 0; v < vectors; v++) store(to + c + v * LANES, sums[v]);
                }
            }
        }
        free(rows);
    }
    return failed;
}
