/* What the kernels in C share: vectors of the CPU's full width, activations, and the product of matrices.

   hatch_build.py compiles every kernel once for each instruction set; the names tell them apart, and
   rcnn.kernels.library chooses by what the CPU has. */

#include <stdint.h>

/* The lanes of a vector register, and as many rows of products as there are registers for. */
#if defined(__AVX512F__)
#define KERNEL(name) name##_avx512
enum { LANES = 16, ROWS = 14 };
#elif defined(__AVX2__)
#define KERNEL(name) name##_avx2
enum { LANES = 8, ROWS = 6 };
#else
#error "without AVX2 torch's own kernels are as fast"
#endif
enum { WIDE = 2 * LANES }; /* the kernels of a panel: what is multiplied with a row at a time */

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vector load(const float *from) { return *(const vector *)from; }
static inline void store(float *to, vector value) { *(vector *)to = value; }
static inline vector all(float x) { return x - (vector){0}; }

/* Lane by lane; what is not a number stays so, since no comparison with it holds. */
static inline vector choose(integers which, vector then, vector otherwise) {
    return (vector)((which & (integers)then) | (~which & (integers)otherwise));
}
static inline vector relu(vector x) { return choose(x < 0, all(0), x); }
static inline vector relu6(vector x) { return choose(x > 6, all(6), relu(x)); }

enum { NOTHING, RELU, RELU6, HARDSWISH }; /* rcnn.ops.convolution.ACTIVATIONS */

static inline vector activate(vector x, int activation) {
    if (activation == RELU) return relu(x);
    if (activation == RELU6) return relu6(x);
    if (activation == HARDSWISH) return x * relu6(x + 3) / 6;
    return x;
}

/* sums [ROWS][WIDE] of inputs [ROWS][C], `stride` numbers between the rows, and kernels [C][WIDE]. */
static inline __attribute__((always_inline)) void multiply(const float *inputs, int64_t stride, const float *kernels,
                                                           int64_t channels, vector sums[ROWS][2]) {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) sums[r][0] = sums[r][1] = all(0);
    for (int64_t c = 0; c < channels; c++) {
        const vector left = load(kernels + c * WIDE), right = load(kernels + c * WIDE + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            const vector input = all(inputs[r * stride + c]);
            sums[r][0] += input * left;
            sums[r][1] += input * right;
        }
    }
}
