// DCNv3 backward, rung 2: one thread, one pixel and group; the channel loop is inside.
//
// What changed    The thread has all channels of its group: the dot products <corner, arriving gradient>, from which the
//                 gradients of offset and mask follow, are sums in registers. Only grad_input is still scattered.
// What bounds it  The four scattered sums a tap and channel.
// How to run it   As 2_point.cu of dcnv3_forward, with grad_input (of type A) set to 0 before.
//
// WIDTH channels are worked on at a time, WIDTH a multiple of 4 (or 1). Shapes: dcnv3.cuh.
#include "dcnv3.cuh"
#include "scattered.cuh"

// Corner `corner` of a tap, `width` channels: dot += <corner, g>, and its share of grad_input. Four lanes of partial
// sums: a single one would be a chain of dependent additions.
template <typename T, typename A>
__device__ __forceinline__ A corner_backward(int width, const A* g, const T* corner, Scattered<A> grad, A weight) {
    A part[4] = {A(0), A(0), A(0), A(0)};
    for (int c = 0; c < width; ++c) part[c % 4] += g[c] * load<A>(corner[c]);
    for (int c = 0; c < width; ++c) atomicAdd(grad + c, weight * g[c]);
    return (part[0] + part[1]) + (part[2] + part[3]);
}

// `width` channels of one tap: dot[i] += <corner i, g>. Called with a constant where all WIDTH are there.
template <typename T, typename A, int WIDTH>
__device__ __forceinline__ void tap_backward(int width, const T* grad_output, const T* image, Scattered<A> grad_image,
                                             const Cell<A>& cell, const A weight[4], A dot[4], const DCNv3Shape& shape) {
    A g[WIDTH];
    for (int c = 0; c < width; ++c) g[c] = load<A>(grad_output[c]);
    for (int corner = 0; corner < 4; ++corner) {
        if (cell.sample == BORDER && !cell.has(corner, shape.height, shape.width)) continue;
        const long long at = cell.pixel(corner, shape.width) * shape.channels();
        dot[corner] += corner_backward<T, A>(width, g, image + at, grad_image + at, weight[corner]);
    }
}

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
dcnv3_backward_point(const T* __restrict__ grad_output, const T* __restrict__ input, const T* __restrict__ offset,
                     const T* __restrict__ mask, const int* __restrict__ taps, const A* __restrict__ residual,
                     Scattered<A> grad_input, T* __restrict__ grad_offset, T* __restrict__ grad_mask,
                     DCNv3Shape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= shape.rows()) return;
    const unsigned pixel = item / unsigned(shape.groups), group = item % unsigned(shape.groups);
    const A scale = A(shape.offset_scale);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long start = (long long)group * shape.group_width;
        const long long image = (long long)n * shape.height * shape.width * shape.channels() + start;
        const T* arriving = grad_output + ((long long)n * shape.out_height * shape.out_width + pixel) * shape.channels() + start;
        const long long row = (long long)n * shape.rows() + item;
        for (int k = 0; k < shape.taps; ++k) {
            const long long tap = row * shape.taps + k;
            const A m = load<A>(mask[tap]);
            const Cell<A> cell = locate_tap<T, A>(shape, offset, m, taps, residual, row, pixel, k);
            A weight[4], dot[4] = {A(0), A(0), A(0), A(0)};
            corner_weights(cell, m, weight);
            if (cell.sample == BROKEN) dot[0] = not_a_number<A>();
            if (cell.sample == INSIDE || cell.sample == BORDER) {
                for (int first = 0; first < shape.group_width; first += WIDTH) {
                    const int left = shape.group_width - first;
                    const T *g = arriving + first, *x = input + image + first;
                    const Scattered<A> grad = grad_input + image + first;
                    if (left >= WIDTH) tap_backward<T, A, WIDTH>(WIDTH, g, x, grad, cell, weight, dot, shape);
                    else tap_backward<T, A, WIDTH>(left, g, x, grad, cell, weight, dot, shape);
                }
            }
            const SampleGradient<A> gradient = sample_gradient(cell, dot, m);
            store(grad_offset + 2 * tap, scale * gradient.x);
            store(grad_offset + 2 * tap + 1, scale * gradient.y);
            store(grad_mask + tap, gradient.modulation);
        }
    }
}
