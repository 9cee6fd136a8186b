// Deformable convolution forward, rung 1: one thread, one output value. NCHW as it comes.
//
// What it does    y_o(p) = b_o + sum over taps k and channels c of w_ock * m_gk(p) * x_c(p + p_k + offset_gk(p)).
// What bounds it  Arithmetic done over and over: every output channel samples all input channels anew.
// How to run it   grid = ((outputs * out_height * out_width + 127) // 128, min(batch, 65535)), block = 128
//
// Shapes: deform_conv2d.cuh. T is float, double or __half; A the type of the arithmetic. bias and mask may be null.
// __launch_bounds__(128, 1): with nothing said of blocks, NVRTC spills registers to make room for more of them.
#include "deform_conv2d.cuh"

template <typename T, typename A>
__global__ void __launch_bounds__(128, 1)
deform_conv2d_forward_naive(const T* __restrict__ input, const T* __restrict__ offset, const T* __restrict__ mask,
                            const T* __restrict__ weight, const T* __restrict__ bias, const int* __restrict__ taps,
                            T* __restrict__ output, DeformConv2dShape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= unsigned(shape.outputs) * shape.pixels()) return;
    const unsigned pixel = item % shape.pixels();
    const int o = int(item / shape.pixels()), per_group = shape.channels / shape.conv_groups;
    const int first = o / (shape.outputs / shape.conv_groups) * per_group;  // the conv group's first channel

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        A sum = bias ? load<A>(bias[o]) : A(0);
        for (int c = first; c < first + per_group; ++c) {
            const T* channel = input + ((long long)n * shape.channels + c) * shape.height * shape.width;
            const DeformConv2dRow<T, A> row(shape, offset, mask, taps, n, c / shape.group_width(), pixel);
            for (int k = 0; k < shape.taps; ++k) {
                const Cell<A> cell = row.cell(k);
                A corner[4];
                corner_weights(cell, row.modulation(k), corner);
                const A value = sample_channel(channel, 1, cell, corner, shape.height, shape.width);
                sum += load<A>(weight[((long long)o * per_group + c - first) * shape.taps + k]) * value;
            }
        }
        store(output + ((long long)n * shape.outputs + o) * shape.pixels() + pixel, sum);
    }
}
