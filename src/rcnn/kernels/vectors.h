/* What the kernels in C share: vectors of the CPU's full width, and the product that they spend their time in. */

#include <stdint.h>

/* The lanes of a vector register, and as many rows of products as there are registers for. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 14 };
#elif defined(__AVX__)
enum { LANES = 8, ROWS = 6 };
#else
#error "not quicker than torch's own kernels without AVX"
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
