// DCNv3 forward, rung 2: one thread, one pixel and group; the channel loop is inside.
//
// What changed    A tap is worked out once for all channels of its group, and the channels lie next to each other: on
//                 a CPU the loop over them becomes vector instructions, on a GPU 16-byte loads.
// What bounds it  On a GPU the loads of neighbouring threads lie a group apart (a later rung gives a group several
//                 threads). On a CPU the loads from the first-level cache: four corners a tap.
// How to run it   grid = ((out_height * out_width * groups + 127) // 128, min(batch, 65535)), block = 128
//
// WIDTH channels are summed in registers at a time. Any group width works with any WIDTH; equal is fastest.
#include "channels.cuh"
#include "dcnv3.cuh"

// `width` channels of one row of outputs. Called with a constant where all WIDTH are there.
template <typename T, typename A, int WIDTH>
__device__ __forceinline__ void forward_channels(int width, const T* image, const T* offset, const T* mask,
                                                 const int* taps, const A* residual, T* output, long long row,
                                                 unsigned pixel, const DCNv3Shape& shape) {
    A sum[WIDTH];
    for (int c = 0; c < width; ++c) sum[c] = A(0);
    for (int k = 0; k < shape.taps; ++k) {
        const A m = load<A>(mask[row * shape.taps + k]);
        const Cell<A> cell = locate_tap<T, A>(shape, offset, m, taps, residual, row, pixel, k);
        A weight[4];
        corner_weights(cell, m, weight);
        add_sample<T, A>(sum, width, image, shape.channels(), cell, weight, shape.height, shape.width);
    }
    for (int c = 0; c < width; ++c) store(output + c, sum[c]);
}

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
dcnv3_forward_point(const T* __restrict__ input, const T* __restrict__ offset, const T* __restrict__ mask,
                    const int* __restrict__ taps, const A* __restrict__ residual, T* __restrict__ output,
                    DCNv3Shape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= shape.rows()) return;
    const unsigned pixel = item / unsigned(shape.groups), group = item % unsigned(shape.groups);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const T* image = input + (long long)n * shape.height * shape.width * shape.channels();
        const long long row = (long long)n * shape.rows() + item;
        for (int first = 0; first < shape.group_width; first += WIDTH) {
            const long long c = (long long)group * shape.group_width + first;
            T* to = output + ((long long)n * shape.out_height * shape.out_width + pixel) * shape.channels() + c;
            const int left = shape.group_width - first;
            if (left >= WIDTH)
                forward_channels<T, A, WIDTH>(WIDTH, image + c, offset, mask, taps, residual, to, row, pixel, shape);
            else
                forward_channels<T, A, WIDTH>(left, image + c, offset, mask, taps, residual, to, row, pixel, shape);
        }
    }
}
