// Softmax forward, rung 1: one thread, a few neighbouring rows.
//
// What it does    output = exp(z - max z) / sum of exp(z - max z) in every row [eq:softmax.1]: logits become modulation.
// What bounds it  The rows are short, K = 9 for a 3x3 kernel. On a CPU a row is too short for vector instructions, so that
//                 the exponentials of all rows of a thread are one loop. On a GPU a thread has one row, and the loads of
//                 neighbouring threads lie a row apart: 36 bytes, and every byte that is read is used.
// How to run it   grid = (ceil(rows / EACH) + 127) // 128, block = 128
//
//   input, output [rows, taps]. The output is of type A and holds what is not finished yet: float for half, too.
#include "softmax.cuh"

template <typename T, typename A, int EACH>
__global__ void __launch_bounds__(128)
softmax_forward_rows(const T* __restrict__ input, A* __restrict__ output, long long rows, int taps) {
    const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
    if (first >= rows) return;
    const int count = rows - first < EACH ? int(rows - first) : EACH;
    if (taps == USUAL)
        softmax_of_rows(input + first * USUAL, output + first * USUAL, count, USUAL);
    else
        softmax_of_rows(input + first * taps, output + first * taps, count, taps);
}
