// Deformable convolution backward, rung 2: from the gradient of the columns, one thread a tap.
//
// What changed    The array library multiplies grad_output by the weights: that is the gradient of the columns, [pixel,
//                 tap, channel]. A thread has all channels of its tap: the gradients of offset and mask are sums in
//                 registers and are written once; only grad_image is still scattered.
// What bounds it  The four scattered sums a tap and channel, and the columns' way through memory.
// How to run it   For pixels first .. first + count of one image:
//                 grid = (count * taps * groups + 127) // 128, block = 128, grad_image (of type A) set to 0 before
//
//   image, grad_image [height, width, channels], grad_columns [count, taps, channels]; the rest: deform_conv2d.cuh,
//   offset, mask and their gradients of the whole batch, `n` the image. grad_mask may be null.
#include "channels.cuh"
#include "deform_conv2d.cuh"
#include "scattered.cuh"

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
deform_conv2d_columns_backward(const T* __restrict__ grad_columns, const T* __restrict__ image,
                               const T* __restrict__ offset, const T* __restrict__ mask, const int* __restrict__ taps,
                               Scattered<A> grad_image, T* __restrict__ grad_offset, T* __restrict__ grad_mask, int n,
                               int first, int count, DeformConv2dShape shape) {
    const long long item = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= (long long)count * shape.taps * shape.groups) return;
    const int group = int(item % shape.groups), k = int(item / shape.groups % shape.taps);
    const unsigned pixel = unsigned(first + item / shape.groups / shape.taps);

    const long long plane = shape.plane(n, group, k);
    const A m = modulation_of<T, A>(shape, mask, plane, pixel);
    const Cell<A> cell = locate_tap<T, A>(shape, offset, m, taps, plane, pixel, k);
    A weight[4], dot[4] = {A(0), A(0), A(0), A(0)};
    corner_weights(cell, m, weight);
    const int wide = shape.group_width();
    sample_backward<T, A, WIDTH>(wide, grad_columns + item * wide, image + group * wide,
                                      grad_image + (long long)group * wide, shape.channels, cell, weight, dot,
                                      shape.height, shape.width);
    const SampleGradient<A> gradient = sample_gradient(cell, dot, m);
    store(grad_offset + 2 * plane * shape.pixels() + pixel, gradient.y);
    store(grad_offset + (2 * plane + 1) * shape.pixels() + pixel, gradient.x);
    if (grad_mask) store(grad_mask + plane * shape.pixels() + pixel, gradient.modulation);
}
