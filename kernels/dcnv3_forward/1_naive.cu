// DCNv3 forward, rung 1: one thread, one output channel.
//
// What it does    y_c(p) = sum over the taps k of m_gk(p) * x_c(p + p_k + offset_gk(p)), with c in group g.
// What bounds it  Arithmetic that has nothing to do with channels: all threads of a group work out the same taps.
// How to run it   grid = ((out_height * out_width * channels + 127) // 128, min(batch, 65535)), block = 128
//
// Shapes: dcnv3.cuh. T is float, double or __half; A the type of the arithmetic.
// The output is the modulated sum of the samples: [eq:dcnv3.2].
#include "dcnv3.cuh"

template <typename T, typename A>
__global__ void __launch_bounds__(128)
dcnv3_forward_naive(const T* __restrict__ input, const T* __restrict__ offset, const T* __restrict__ mask,
                    const int* __restrict__ taps, const A* __restrict__ residual, T* __restrict__ output,
                    DCNv3Shape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned channels = unsigned(shape.channels());
    if (item >= shape.rows() * unsigned(shape.group_width)) return;
    const unsigned pixel = item / channels, c = item % channels, group = c / unsigned(shape.group_width);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const T* image = input + (long long)n * shape.height * shape.width * channels + c;
        const long long number = (long long)n * shape.rows() + pixel * unsigned(shape.groups) + group;
        const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, number, pixel);
        A sum = A(0);
        for (int k = 0; k < shape.taps; ++k) {
            const Cell<A> cell = row.cell(k);
            A weight[4];
            corner_weights(cell, row.modulation(k), weight);
            sum += sample_channel(image, channels, cell, weight, shape.height, shape.width);
        }
        store(output + ((long long)n * shape.out_height * shape.out_width + pixel) * channels + c, sum);
    }
}
