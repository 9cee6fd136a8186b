// GELU forward, rung 1: one thread, a run of neighbouring elements.
//
// What it does    output = x Phi(x) [eq:gelu.1], Phi the distribution function of the standard normal.
// What bounds it  On a GPU memory: a run is one element there, and neighbouring threads read neighbours. On a CPU the
//                 arithmetic, some 40 operations an element; the loop over a run becomes vector instructions. In double it
//                 is a call of erfc() an element.
// How to run it   grid = (ceil(size / EACH) + 127) // 128, block = 128
//
//   input, output [size]. T is float, double or __half; A the type of the arithmetic; EACH the length of a run.
#include "normal.cuh"

template <typename T, typename A, int EACH>
__global__ void __launch_bounds__(128)
gelu_forward_run(const T* __restrict__ input, T* __restrict__ output, long long size) {
    const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * EACH;
    if (first >= size) return;
    const int count = size - first < EACH ? int(size - first) : EACH;
    for (int i = 0; i < count; ++i) {
        const A x = load<A>(input[first + i]);
        store(output + first + i, x * normal(x).below);
    }
}
