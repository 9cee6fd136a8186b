// DCNv3 backward, rung 1: one thread, one output channel; every gradient is an atomic sum.
//
// What it does    For the arriving gradient g of an output channel and each of its taps:
//                 grad_input  at each corner     += weight * modulation * g
//                 grad_offset (x, y) of the tap  += scale * modulation * g * slope of the bilinear surface
//                 grad_mask of the tap           += g * value
// What bounds it  Atomics: seven a tap and channel, three of them onto numbers that the whole group shares.
// How to run it   As 1_naive.cu of dcnv3_forward, with the three gradients set to 0 before.
//
// The gradients are of type A (half is too coarse to add up in): cast them afterwards. Shapes: dcnv3.cuh.
// Gradients: [eq:dcnv3.3] and [eq:sample.3].
#include "dcnv3.cuh"
#include "scattered.cuh"

template <typename T, typename A>
__global__ void __launch_bounds__(128)
dcnv3_backward_atomic(const T* __restrict__ grad_output, const T* __restrict__ input, const T* __restrict__ offset,
                      const T* __restrict__ mask, const int* __restrict__ taps, const A* __restrict__ residual,
                      Scattered<A> grad_input, Scattered<A> grad_offset, Scattered<A> grad_mask, DCNv3Shape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned channels = unsigned(shape.channels());
    if (item >= shape.rows() * unsigned(shape.group_width)) return;
    const unsigned pixel = item / channels, c = item % channels, group = c / unsigned(shape.group_width);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long image = (long long)n * shape.height * shape.width * channels + c;
        const long long number = (long long)n * shape.rows() + pixel * unsigned(shape.groups) + group;
        const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, number, pixel);
        const A g = load<A>(grad_output[((long long)n * shape.out_height * shape.out_width + pixel) * channels + c]);
        for (int k = 0; k < shape.taps; ++k) {
            const long long tap = number * shape.taps + k;
            const A m = row.modulation(k);
            const Cell<A> cell = row.cell(k);
            if (cell.sample == NOWHERE) continue;
            if (cell.sample == BROKEN) {
                atomicAdd(grad_offset + 2 * tap, not_a_number<A>());
                atomicAdd(grad_offset + 2 * tap + 1, not_a_number<A>());
                atomicAdd(grad_mask + tap, not_a_number<A>());
                continue;
            }
            A weight[4], dot[4];
            corner_weights(cell, m, weight);
            for (int corner = 0; corner < 4; ++corner) {
                dot[corner] = A(0);
                if (!cell.has(corner, shape.height, shape.width)) continue;
                const long long at = image + cell.pixel(corner, shape.width) * channels;
                dot[corner] = g * load<A>(input[at]);
                atomicAdd(grad_input + at, weight[corner] * g);
            }
            const SampleGradient<A> gradient = sample_gradient(cell, dot, m);
            atomicAdd(grad_offset + 2 * tap, row.scale * gradient.x);
            atomicAdd(grad_offset + 2 * tap + 1, row.scale * gradient.y);
            atomicAdd(grad_mask + tap, gradient.modulation);
        }
    }
}
