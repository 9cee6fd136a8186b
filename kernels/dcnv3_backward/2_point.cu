// DCNv3 backward, rung 2: one thread, one pixel and group; the channel loop is inside.
//
// What changed    The thread has all channels of its group: the dot products <corner, arriving gradient>, from which the
//                 gradients of offset and mask follow, are sums in registers. Only grad_input is still scattered.
// What bounds it  The four scattered sums a tap and channel.
// How to run it   As 2_point.cu of dcnv3_forward, with grad_input (of type A) set to 0 before.
//
// WIDTH channels are worked on at a time, a power of two; any group width works. Shapes: dcnv3.cuh.
// __launch_bounds__(128, 1): with nothing said of blocks, NVRTC spills registers to make room for more of them.
#include "dcnv3.cuh"
#include "taps.cuh"

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128, 1)
dcnv3_backward_point(const T* __restrict__ grad_output, const T* __restrict__ input, const T* __restrict__ offset,
                     const T* __restrict__ mask, const int* __restrict__ taps, const A* __restrict__ residual,
                     Scattered<A> grad_input, T* __restrict__ grad_offset, T* __restrict__ grad_mask,
                     DCNv3Shape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= shape.rows()) return;
    const unsigned pixel = item / unsigned(shape.groups), group = item % unsigned(shape.groups);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long number = (long long)n * shape.rows() + item, image = shape.image(n, group);
        const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, number, pixel);
        for (int first = 0; first < shape.taps; first += TOGETHER) {
            const int count = shape.taps - first < TOGETHER ? shape.taps - first : TOGETHER;
            Taps<A> tap;
            const bool whole = tap.locate(row, first, count);
            for (int i = 0; i < count; ++i) {
                const int there = whole ? ALL : tap.there(i, shape.height, shape.width);
                const SampleGradient<A> gradient =
                    tap_backward<WIDTH>(tap, i, there, grad_output + number * shape.group_width, input + image,
                                        grad_input + image, shape.width, shape.channels(), shape.group_width);
                const long long at = number * shape.taps + first + i;
                store(grad_offset + 2 * at, row.scale * gradient.x);
                store(grad_offset + 2 * at + 1, row.scale * gradient.y);
                store(grad_mask + at, gradient.modulation);
            }
        }
    }
}
