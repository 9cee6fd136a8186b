// Depthwise convolution backward, rung 1: one thread, a run of input pixels of a row, in a few channels.
//
// What it does    A pixel and a tap belong to at most one output. From what arrives there follow both gradients: it adds to
//                 the pixel's, times the weight, and to the weight's, times the pixel. So the gradient of the input is
//                 gathered, not scattered.
// What bounds it  The sums of the weights' gradients: a thread adds up its run in registers, then to those of all threads.
// How to run it   As 1_run.cu of depthwise_conv2d_forward, over the pixels of the input; grad_weight set to 0 before
//
// Shapes: depthwise.cuh. The gradient of the bias is a plain sum of grad_output, left to the array library.
#include "depthwise.cuh"

template <typename T, typename A, int WIDTH, int EACH>
__global__ void __launch_bounds__(128)
depthwise_conv2d_backward_run(const T* __restrict__ grad_output, const T* __restrict__ input,
                              const T* __restrict__ weight, T* __restrict__ grad_input, Scattered<A> grad_weight,
                              DepthwiseShape shape) {
    typedef Lanes<A, WIDTH> L;
    const Run<WIDTH, EACH> run(blockIdx.x * blockDim.x + threadIdx.x, shape, shape.height, shape.width);
    if (!run.exists) return;

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long first =
            (((long long)n * shape.height + run.y) * shape.width + run.x) * shape.channels + run.channel;
        L pixel[EACH], sum[EACH];
        UNROLL
        for (int i = 0; i < EACH; ++i)
            if (i < run.count) pixel[i] = L::load_from(input + first + (long long)i * shape.channels, run.channels);
        for (int j = 0; j < shape.kernel_height; ++j) {
            const int down = run.y + shape.padding_y - j * shape.dilation_y, y = down / shape.stride_y;
            if (down < 0 || down % shape.stride_y || y >= shape.out_height) continue;
            const T* row = grad_output + ((long long)n * shape.out_height + y) * shape.out_width * shape.channels + run.channel;
            for (int k = 0; k < shape.kernel_width; ++k) {
                const int right = run.x + shape.padding_x - k * shape.dilation_x;
                const long long tap = (long long)(j * shape.kernel_width + k) * shape.channels + run.channel;
                const L factor = L::load_from(weight + tap, run.channels);
                L along;
                const auto add = [&](int i, int x, int channels) {
                    const L arriving = L::load_from(row + (long long)x * shape.channels, channels);
                    sum[i] = sum[i] + arriving * factor;
                    along = along + arriving * pixel[i];
                };
                if (run.whole() && shape.stride_x == 1 && right >= 0 && right + EACH <= shape.out_width) {
                    UNROLL
                    for (int i = 0; i < EACH; ++i) add(i, right + i, WIDTH);
                } else {
                    UNROLL
                    for (int i = 0; i < EACH; ++i) {
                        const int at = right + i, x = at / shape.stride_x;
                        if (i < run.count && at >= 0 && at % shape.stride_x == 0 && x < shape.out_width)
                            add(i, x, run.channels);
                    }
                }
                along.add_to(grad_weight + tap, run.channels);
            }
        }
        UNROLL
        for (int i = 0; i < EACH; ++i)
            if (i < run.count) sum[i].store_to(grad_input + first + (long long)i * shape.channels, run.channels);
    }
}
