// Layer norm forward, rung 1: one thread, one row of channels.
//
// What it does    output = weight (x - mean) / sqrt(variance + eps) + bias for every row: [eq:norm.1].
// What bounds it  On a GPU the loads of neighbouring threads lie a row apart (a later rung gives a row a warp). On a CPU
//                 a row stays in the first-level cache for its three passes, which are vector instructions.
// How to run it   grid = (rows + 127) // 128, block = 128
//
//   input, output [rows, channels]; weight, bias [channels]. WIDTH channels are worked on at a time; any number works.
#include "standardise.cuh"

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
layer_norm_forward_row(const T* __restrict__ input, const T* __restrict__ weight, const T* __restrict__ bias,
                       T* __restrict__ output, long long rows, int channels, A eps) {
    typedef Lanes<A, WIDTH> L;
    const long long number = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (number >= rows) return;
    const T* row = input + number * channels;
    T* to = output + number * channels;
    const RowStatistics<A> of = row_statistics<WIDTH>(row, channels, eps);
    by_lanes<WIDTH>(channels, [&](int c, int count) {
        const L standard = (L::load_from(row + c, count) - of.mean) * of.per_scale;
        (standard * L::load_from(weight + c, count) + L::load_from(bias + c, count)).store_to(to + c, count);
    });
}
