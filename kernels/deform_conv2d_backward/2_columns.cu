// Deformable convolution backward, rung 2: from the gradient of the columns.
//
// What changed    The array library multiplies grad_output by the weights: that is the gradient of the columns, [pixel,
//                 tap, channel]. A thread has all channels of its taps: the gradients of offset and mask are sums in
//                 registers and are written once; only grad_image is still scattered.
// What bounds it  The four scattered sums a tap and channel, and the columns' way through memory.
// How to run it   For pixels first .. first + count of image n:
//                 grid = (count * groups + 127) // 128, block = 128, grad_image (of type A) set to 0 before
//
//   image, grad_image [height, width, channels], grad_columns [count, taps, channels]; offset, mask and their gradients
//   of the whole batch, see deform_conv2d.cuh. grad_mask may be null.
//   Gradients: [eq:deform.3], then [eq:sample.3].
#include "deform_conv2d.cuh"
#include "taps.cuh"

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
deform_conv2d_columns_backward(const T* __restrict__ grad_columns, const T* __restrict__ image,
                               const T* __restrict__ offset, const T* __restrict__ mask, const int* __restrict__ taps,
                               Scattered<A> grad_image, T* __restrict__ grad_offset, T* __restrict__ grad_mask, int n,
                               int first, int count, DeformConv2dShape shape) {
    const long long item = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= (long long)count * shape.groups) return;
    const int group = int(item % shape.groups), wide = shape.group_width();
    const long long pixel = item / shape.groups;

    const DeformConv2dRow<T, A> row(shape, offset, mask, taps, n, group, unsigned(first + pixel));
    for (int start = 0; start < shape.taps; start += TOGETHER) {
        const int together = shape.taps - start < TOGETHER ? shape.taps - start : TOGETHER;
        Taps<A> tap;
        const bool whole = tap.locate(row, start, together);
        for (int i = 0; i < together; ++i) {
            const int k = start + i, there = whole ? ALL : tap.there(i, shape.height, shape.width);
            const T* arriving = grad_columns + (pixel * shape.taps + k) * shape.channels + group * wide;
            const SampleGradient<A> gradient =
                tap_backward<WIDTH>(tap, i, there, arriving, image + group * wide,
                                    grad_image + (long long)group * wide, shape.width, shape.channels, wide);
            store(grad_offset + row.y_at(k), gradient.y);
            store(grad_offset + row.x_at(k), gradient.x);
            if (grad_mask) store(grad_mask + row.mask_at(k), gradient.modulation);
        }
    }
}
