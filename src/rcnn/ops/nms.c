/* Non-maximum suppression inside groups, for prediction; rcnn.ops.kernels calls it.

   The same comparisons in the same precision as torchvision's, so the same boxes are kept: without contraction of
   products and sums, which torchvision is built without. */

#pragma GCC optimize("fp-contract=off")

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

/* kept [N], one byte each, of boxes [N][4]: those of group g are ends[g - 1] to ends[g], best first.
   Returns 0, or 1 where there is no memory. */
int rcnn_nms(const float *boxes, const int64_t *ends, int64_t groups, double max_iou, uint8_t *kept, int threads) {
    (void)threads; /* without OpenMP */
    /* torchvision compares in double: a float is above max_iou where it is above the next float that is not. */
    float most = (float)max_iou;
    if (most > max_iou) most = nextafterf(most, -INFINITY);
    int failed = 0;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t g = 0; g < groups; g++) {
        const int64_t first = g ? ends[g - 1] : 0, count = ends[g] - first;
        uint8_t *const alive = kept + first;
        float *const numbers = malloc(sizeof(float) * (5 * count + 1));
        if (!numbers) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        float *const x0 = numbers, *const y0 = x0 + count, *const x1 = y0 + count, *const y1 = x1 + count,
                     *const area = y1 + count;
        for (int64_t i = 0; i < count; i++) {
            const float *const box = boxes + 4 * (first + i);
            x0[i] = box[0], y0[i] = box[1], x1[i] = box[2], y1[i] = box[3];
            area[i] = (box[2] - box[0]) * (box[3] - box[1]);
            alive[i] = 1;
        }
        for (int64_t i = 0; i < count; i++) {
            if (!alive[i]) continue;
            const float left = x0[i], top = y0[i], right = x1[i], bottom = y1[i], mine = area[i];
            for (int64_t j = i + 1; j < count; j++) {
                const float wide = (right < x1[j] ? right : x1[j]) - (left > x0[j] ? left : x0[j]);
                const float high = (bottom < y1[j] ? bottom : y1[j]) - (top > y0[j] ? top : y0[j]);
                const float shared = (wide > 0 ? wide : 0) * (high > 0 ? high : 0);
                alive[j] &= !(shared / (mine + area[j] - shared) > most);
            }
        }
        free(numbers);
    }
    return failed;
}
