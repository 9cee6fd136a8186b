// DCNv3 backward, rung 2: one thread, one pixel and group; the channel loop is inside.
//
// What changed    The thread has all channels of its group: the dot products <corner, arriving gradient>, from which the
//                 gradients of offset and mask follow, are sums in registers. Only grad_input is still scattered.
// What bounds it  The four scattered sums a tap and channel.
// How to run it   As 2_point.cu of dcnv3_forward, with grad_input (of type A) set to 0 before.
//
// WIDTH channels are worked on at a time, WIDTH a multiple of 4 (or 1). Shapes: dcnv3.cuh.
#include "channels.cuh"
#include "dcnv3.cuh"

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
        const long long output = ((long long)n * shape.out_height * shape.out_width + pixel) * shape.channels();
        const T* arriving = grad_output + output + start;
        const long long row = (long long)n * shape.rows() + item;
        for (int k = 0; k < shape.taps; ++k) {
            const long long tap = row * shape.taps + k;
            const A m = load<A>(mask[tap]);
            const Cell<A> cell = locate_tap<T, A>(shape, offset, m, taps, residual, row, pixel, k);
            A weight[4], dot[4] = {A(0), A(0), A(0), A(0)};
            corner_weights(cell, m, weight);
            sample_backward<T, A, WIDTH>(shape.group_width, arriving, input + image, grad_input + image, shape.channels(),
                                         cell, weight, dot, shape.height, shape.width);
            const SampleGradient<A> gradient = sample_gradient(cell, dot, m);
            store(grad_offset + 2 * tap, scale * gradient.x);
            store(grad_offset + 2 * tap + 1, scale * gradient.y);
            store(grad_mask + tap, gradient.modulation);
        }
    }
}
