// Depthwise convolution forward, rung 1: one thread, a run of pixels of a row, in a few channels.
//
// What it does    output(y, x, c) = bias(c) + sum over taps of weight(tap, c) * input(y', x', c): [eq:depthwise.1]. What
//                 lies outside the image is left out: it adds nothing even where a weight is not finite.
// What bounds it  On a CPU one load from the first-level cache a tap and output; the weight is loaded once a run. On a GPU
//                 (a run is one pixel there) memory: neighbouring threads read neighbouring channels.
// How to run it   grid = ((ceil(out_width / EACH) * out_height * ceil(channels / WIDTH) + 127) // 128, min(batch, 65535)),
//                 block = 128
//
// Shapes: depthwise.cuh; bias [channels] or null. WIDTH channels at a time, any number of channels works.
#include "depthwise.cuh"

template <typename T, typename A, int WIDTH, int EACH>
__global__ void __launch_bounds__(128)
depthwise_conv2d_forward_run(const T* __restrict__ input, const T* __restrict__ weight, const T* __restrict__ bias,
                             T* __restrict__ output, DepthwiseShape shape) {
    typedef Lanes<A, WIDTH> L;
    const Run<WIDTH, EACH> run(blockIdx.x * blockDim.x + threadIdx.x, shape, shape.out_height, shape.out_width);
    if (!run.exists) return;
    const L start = bias ? L::load_from(bias + run.channel, run.channels) : L();

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        L sum[EACH];
        UNROLL
        for (int i = 0; i < EACH; ++i) sum[i] = start;
        for (int j = 0; j < shape.kernel_height; ++j) {
            const int y = run.y * shape.stride_y - shape.padding_y + j * shape.dilation_y;
            if (y < 0 || y >= shape.height) continue;
            const T* row = input + ((long long)n * shape.height + y) * shape.width * shape.channels + run.channel;
            for (int k = 0; k < shape.kernel_width; ++k) {
                const int x = run.x * shape.stride_x - shape.padding_x + k * shape.dilation_x;
                const long long tap = (long long)(j * shape.kernel_width + k) * shape.channels;
                const L factor = L::load_from(weight + tap + run.channel, run.channels);
                const auto add = [&](int i, int channels) {
                    const long long at = (long long)(x + i * shape.stride_x) * shape.channels;
                    sum[i] = sum[i] + L::load_from(row + at, channels) * factor;
                };
                if (run.whole() && x >= 0 && x + (EACH - 1) * shape.stride_x < shape.width) {
                    UNROLL
                    for (int i = 0; i < EACH; ++i) add(i, WIDTH);
                } else {
                    UNROLL
                    for (int i = 0; i < EACH; ++i)
                        if (i < run.count && x + i * shape.stride_x >= 0 && x + i * shape.stride_x < shape.width)
                            add(i, run.channels);
                }
            }
        }
        const long long first = ((long long)n * shape.out_height + run.y) * shape.out_width + run.x;
        UNROLL
        for (int i = 0; i < EACH; ++i)
            if (i < run.count)
                sum[i].store_to(output + (first + i) * shape.channels + run.channel, run.channels);
    }
}
