// Deformable convolution backward, rung 1: one thread, one output value, everything scattered. NCHW as it comes.
//
// What it does    The chain rule, term by term: every product weight * modulation * sample sends its gradient to each of
//                 its factors, with atomicAdd.
// What bounds it  Atomics: up to eight of them for every tap, channel and output channel.
// How to run it   As 1_naive.cu of deform_conv2d_forward. The gradients, of type A, are set to 0 before; grad_mask may
//                 be null. The gradient of the bias is the sum of grad_output.
//
// Shapes: deform_conv2d.cuh. T is float, double or __half; A the type of the arithmetic.
// __launch_bounds__(128, 1): with nothing said of blocks, NVRTC spills registers to make room for more of them.
#include "deform_conv2d.cuh"
#include "scattered.cuh"

template <typename T, typename A>
__global__ void __launch_bounds__(128, 1)
deform_conv2d_backward_naive(const T* __restrict__ grad_output, const T* __restrict__ input,
                             const T* __restrict__ offset, const T* __restrict__ mask, const T* __restrict__ weight,
                             const int* __restrict__ taps, Scattered<A> grad_input, Scattered<A> grad_offset,
                             Scattered<A> grad_weight, Scattered<A> grad_mask, int has_mask, DeformConv2dShape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= unsigned(shape.outputs) * shape.pixels()) return;
    const unsigned pixel = item % shape.pixels();
    const int o = int(item / shape.pixels()), per_group = shape.channels / shape.conv_groups;
    const int first = o / (shape.outputs / shape.conv_groups) * per_group;

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const A arriving = load<A>(grad_output[((long long)n * shape.outputs + o) * shape.pixels() + pixel]);
        for (int c = first; c < first + per_group; ++c) {
            const long long channel = ((long long)n * shape.channels + c) * shape.height * shape.width;
            const DeformConv2dRow<T, A> row(shape, offset, mask, taps, n, c / shape.group_width(), pixel);
            for (int k = 0; k < shape.taps; ++k) {
                const long long w = ((long long)o * per_group + c - first) * shape.taps + k;
                const A m = row.modulation(k);
                const Cell<A> cell = row.cell(k);
                const A g = arriving * load<A>(weight[w]);
                A share[4], dot[4] = {A(0), A(0), A(0), A(0)};
                corner_weights(cell, m, share);
                A value = A(0);  // modulated
                if (cell.sample == BROKEN) value = dot[0] = not_a_number<A>();
                if (cell.sample == INSIDE || cell.sample == BORDER) {
                    for (int corner = 0; corner < 4; ++corner) {
                        if (!cell.has(corner, shape.height, shape.width)) continue;
                        const long long at = channel + cell.pixel(corner, shape.width);
                        const A x = load<A>(input[at]);
                        dot[corner] = g * x;
                        value += share[corner] * x;
                        atomicAdd(grad_input + at, g * share[corner]);
                    }
                }
                if (cell.sample == NOWHERE) continue;  // its gradients are 0
                const SampleGradient<A> gradient = sample_gradient(cell, dot, m);
                atomicAdd(grad_weight + w, arriving * value);
                atomicAdd(grad_offset + row.y_at(k), gradient.y);
                atomicAdd(grad_offset + row.x_at(k), gradient.x);
                if (has_mask) atomicAdd(grad_mask + row.mask_at(k), gradient.modulation);
            }
        }
    }
}
