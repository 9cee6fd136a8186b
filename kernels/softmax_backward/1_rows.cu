// Softmax backward, rung 1: one thread, a few neighbouring rows.
//
// What it does    grad_input_k = m_k (g_k - sum_j m_j g_j) [eq:softmax.2], m = softmax(input), g = grad_output. The
//                 exponentials are computed again rather than kept from the forward pass.
// What bounds it  As in the forward kernel.
// How to run it   As 1_rows.cu of softmax_forward.
#include "softmax.cuh"

template <typename T, typename A>
__device__ __forceinline__ void backward_rows(const T* __restrict__ grad_output, const T* __restrict__ input,
                                              A* __restrict__ grad_input, int count, int taps) {
    powers_of_rows(input, grad_input, count, taps);
    for (int r = 0; r < count; ++r, grad_input += taps, grad_output += taps) {
        A sum = A(0), along = A(0);
        for (int k = 0; k < taps; ++k) {
            sum += grad_input[k];
            along += grad_input[k] * load<A>(grad_output[k]);
        }
        const A share = A(1) / sum, mean = along * share;
        for (int k = 0; k < taps; ++k) grad_input[k] *= share * (load<A>(grad_output[k]) - mean);
    }
}

template <typename T, typename A, int EACH>
__global__ void __launch_bounds__(128)
softmax_backward_rows(const T* __restrict__ grad_output, const T* __restrict__ input, A* __restrict__ grad_input,
                      long long rows, int taps) {
    const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
    if (first >= rows) return;
    const int count = rows - first < EACH ? int(rows - first) : EACH;
    const long long usual = first * USUAL, at = first * taps;
    if (taps == USUAL)
        backward_rows(grad_output + usual, input + usual, grad_input + usual, count, USUAL);
    else
        backward_rows(grad_output + at, input + at, grad_input + at, count, taps);
}
