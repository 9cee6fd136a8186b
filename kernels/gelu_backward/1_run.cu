// GELU backward, rung 1: one thread, a run of neighbouring elements.
//
// What it does    grad_input = grad_output (Phi(x) + x phi(x)) [eq:gelu.2]: the product rule, as Phi' is the normal
//                 density phi. Both come from one exp().
// What bounds it  As in the forward kernel: memory on a GPU, arithmetic on a CPU.
// How to run it   As 1_run.cu of gelu_forward.
#include "normal.cuh"

template <typename T, typename A, int EACH>
__global__ void __launch_bounds__(128)
gelu_backward_run(const T* __restrict__ grad_output, const T* __restrict__ input, T* __restrict__ grad_input,
                  long long size) {
    const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
    if (first >= size) return;
    const int count = size - first < EACH ? int(size - first) : EACH;
    for (int i = 0; i < count; ++i) {
        const A x = load<A>(input[first + i]);
        const Normal<A> at = normal(x);
        store(grad_input + first + i, load<A>(grad_output[first + i]) * (at.below + x * at.density));
    }
}
