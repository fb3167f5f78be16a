/* Non-maximum suppression inside groups.

   The same comparisons in the same precision as torchvision's, so the same boxes are kept: without contraction of
   products and sums, which torchvision is built without. */

#pragma GCC optimize("fp-contract=off")

#include "vectors.h"

/* kept [N], one byte each, of numbers [5][N]: x0, y0, x1, y1 and area of boxes. Those of group g are ends[g - 1] to
   ends[g], best first. */
void KERNEL(rcnn_nms)(const float *numbers, int64_t boxes, const int64_t *ends, int64_t groups, float max_iou,
                      uint8_t *kept, int threads) {
    const float *const x0 = numbers, *const y0 = x0 + boxes, *const x1 = y0 + boxes, *const y1 = x1 + boxes,
                       *const area = y1 + boxes;
    for (int64_t i = 0; i < boxes; i++) kept[i] = 1;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = g ? ends[g - 1] : 0; i < ends[g]; i++) {
            if (!kept[i]) continue;
            const float left = x0[i], top = y0[i], right = x1[i], bottom = y1[i], mine = area[i];
            for (int64_t j = i + 1; j < ends[g]; j++) {
                const float wide = (right < x1[j] ? right : x1[j]) - (left > x0[j] ? left : x0[j]);
                const float high = (bottom < y1[j] ? bottom : y1[j]) - (top > y0[j] ? top : y0[j]);
                const float shared = (wide > 0 ? wide : 0) * (high > 0 ? high : 0);
                kept[j] &= !(shared / (mine + area[j] - shared) > max_iou);
            }
        }
}
