// Layer norm backward, rung 1: one thread, a few neighbouring rows.
//
// What it does    With x the standardised row, s = sqrt(variance + eps) and h = grad_output weight, the gradient of the
//                 input is (h - mean(h) - x mean(h x)) / s [eq:norm.2]: what is left of h after its mean and its part
//                 along x are taken out, because moving a row along either of them changes no output.
// What bounds it  Loads, from the first-level cache on a CPU. The gradients of weight and bias are sums over all rows: a
//                 thread adds up its own rows in registers, and only their sums are scattered.
// How to run it   grid = (ceil(rows / EACH) + 127) // 128, block = 128; grad_weight and grad_bias set to 0 before
//
//   grad_output, input, grad_input [rows, channels]; weight, grad_weight, grad_bias [channels].
#include "standardise.cuh"

template <typename T, typename A, int WIDTH, int EACH>
__global__ void __launch_bounds__(128)
layer_norm_backward_rows(const T* __restrict__ grad_output, const T* __restrict__ input, const T* __restrict__ weight,
                         T* __restrict__ grad_input, Scattered<A> grad_weight, Scattered<A> grad_bias, long long rows,
                         int channels, A eps) {
    typedef Lanes<A, WIDTH> L;
    const long long number = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
    if (number >= rows) return;
    const int count = rows - number < EACH ? int(rows - number) : EACH;
    const long long start = number * channels;
    RowStatistics<A> of[EACH];
    A level[EACH], along[EACH];  // mean(h), mean(h x)
    for (int r = 0; r < count; ++r) {
        const T *row = input + start + (long long)r * channels, *arriving = grad_output + start + (long long)r * channels;
        of[r] = row_statistics<WIDTH>(row, channels, eps);
        L sum, product;
        by_lanes<WIDTH>(channels, [&](int c, int count) {
            const L h = L::load_from(arriving + c, count) * L::load_from(weight + c, count);
            sum = sum + h;
            product = product + h * (L::load_from(row + c, count) - of[r].mean);
        });
        level[r] = sum.total() / A(channels);
        along[r] = product.total() * of[r].per_scale / A(channels);
    }
    by_lanes<WIDTH>(channels, [&](int c, int lanes) {
        const L scale = L::load_from(weight + c, lanes);
        L sum, product;
        for (int r = 0; r < count; ++r) {
            const long long at = start + (long long)r * channels + c;
            const L g = L::load_from(grad_output + at, lanes);
            const L x = (L::load_from(input + at, lanes) - of[r].mean) * of[r].per_scale;
            sum = sum + g;
            product = product + g * x;
            ((g * scale - level[r] - x * along[r]) * of[r].per_scale).store_to(grad_input + at, lanes);
        }
        product.add_to(grad_weight + c, lanes);
        sum.add_to(grad_bias + c, lanes);
    });
}
