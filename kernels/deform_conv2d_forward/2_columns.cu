// Deformable convolution forward, rung 2: sample once into columns; a matrix product does the rest.
//
// What changed    The samples do not depend on the output channel: they are written down once, as the columns of an
//                 im2col, [pixel, tap, channel], and the array library multiplies them by the weights. The image is
//                 channels-last, so that a thread's channels lie next to each other.
// What bounds it  The columns travel to memory and back (taps times the size of the image), and the matrix product.
// How to run it   For pixels first .. first + count of image n:
//                 grid = (count * groups + 127) // 128, block = 128; then columns @ weights
//
//   image [height, width, channels], columns [count, taps, channels]; offset and mask of the whole batch, see
//   deform_conv2d.cuh. WIDTH channels are sampled at a time, a power of two; any group width works.
//   Columns and product: [eq:deform.1], [eq:deform.2].
#include "deform_conv2d.cuh"
#include "taps.cuh"

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
deform_conv2d_columns(const T* __restrict__ image, const T* __restrict__ offset, const T* __restrict__ mask,
                      const int* __restrict__ taps, T* __restrict__ columns, int n, int first, int count,
                      DeformConv2dShape shape) {
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
            const int there = whole ? ALL : tap.there(i, shape.height, shape.width);
            T* column = columns + (pixel * shape.taps + start + i) * shape.channels + group * wide;
            for (int c = 0; c < wide; c += WIDTH) {
                Lanes<A, WIDTH> sample;
                add_tap(sample, tap, i, there, image + group * wide + c, shape.width, shape.channels, wide - c);
                sample.store_to(column + c, wide - c);
            }
        }
    }
}
