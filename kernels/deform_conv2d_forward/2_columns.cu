// Deformable convolution forward, rung 2: sample once into columns; a matrix product does the rest.
//
// What changed    The samples do not depend on the output channel: they are written down once, as the columns of an
//                 im2col, [pixel, tap, channel], and the array library multiplies them by the weights. The image is
//                 channels-last, so that a thread's channels lie next to each other.
// What bounds it  The columns travel to memory and back (taps times the size of the image), and the matrix product.
// How to run it   For pixels first .. first + count of one image:
//                 grid = (count * taps * groups + 127) // 128, block = 128; then columns @ weights
//
//   image [height, width, channels], columns [count, taps, channels]; the rest: deform_conv2d.cuh, offset and mask of
//   the whole batch, `n` the image. WIDTH channels are sampled at a time; any number works.
#include "channels.cuh"
#include "deform_conv2d.cuh"

template <typename T, typename A, int WIDTH>
__device__ __forceinline__ void write_sample(int width, const T* image, const Cell<A>& cell, const A weight[4],
                                             T* column, const DeformConv2dShape& shape) {
    A sum[WIDTH];
    for (int c = 0; c < width; ++c) sum[c] = A(0);
    add_sample<T, A>(sum, width, image, shape.channels, cell, weight, shape.height, shape.width);
    for (int c = 0; c < width; ++c) store(column + c, sum[c]);
}

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
deform_conv2d_columns(const T* __restrict__ image, const T* __restrict__ offset, const T* __restrict__ mask,
                      const int* __restrict__ taps, T* __restrict__ columns, int n, int first, int count,
                      DeformConv2dShape shape) {
    const long long item = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= (long long)count * shape.taps * shape.groups) return;
    const int group = int(item % shape.groups), k = int(item / shape.groups % shape.taps);
    const unsigned pixel = unsigned(first + item / shape.groups / shape.taps);

    const long long plane = shape.plane(n, group, k);
    const A m = modulation_of<T, A>(shape, mask, plane, pixel);
    const Cell<A> cell = locate_tap<T, A>(shape, offset, m, taps, plane, pixel, k);
    A weight[4];
    corner_weights(cell, m, weight);
    const int wide = shape.group_width();
    const T* from = image + group * wide;
    T* to = columns + item * wide;  // (pixel, tap, group) in order: all channels of a tap together
    for (int c = 0; c < wide; c += WIDTH) {
        if (wide - c >= WIDTH) write_sample<T, A, WIDTH>(WIDTH, from + c, cell, weight, to + c, shape);
        else write_sample<T, A, WIDTH>(wide - c, from + c, cell, weight, to + c, shape);
    }
}
