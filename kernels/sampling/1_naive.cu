// Sampling, rung 1: one thread, one position. The hello world of deformable convolution.
//
// What it does    output[p] = the image between its pixels, at base[p] + displacement[p], for all channels.
// What bounds it  Memory: neighbouring threads read pixels that lie a whole pixel apart, and a warp waits for its
//                 slowest lane. One thread does four loads a channel and little arithmetic.
// How to run it   from dcnlab.launch import module
//                 name = "sample_bilinear<float, float>"
//                 kernel = module("sampling/1_naive.cu", [name], target="cpu")[name]
//                 kernel[(positions + 127) // 128, 128](image, base, displacement, output, positions, height, width, channels)
//
//   image [height, width, channels], base [positions, 2] int, displacement [positions, 2], output [positions, channels];
//   last axis of a position: (y, x). T is float, double or __half; A the type of the arithmetic.
//
// run: sample_bilinear<float, float><<<2, 128>>>(image=float[7, 5, 3], base=int[200, 2]=random(-2, 8),
//      displacement=float[200, 2], output=float[200, 3]=zeros, positions=200, height=7, width=5, channels=3)
#include "bilinear.cuh"

template <typename T, typename A>
__global__ void __launch_bounds__(128)
sample_bilinear(const T* __restrict__ image, const int* __restrict__ base, const T* __restrict__ displacement,
                T* __restrict__ output, int positions, int height, int width, int channels) {
    const long long p = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (p >= positions) return;  // the last block has threads to spare

    const A dy = load<A>(displacement[2 * p]), dx = load<A>(displacement[2 * p + 1]);
    const Cell<A> cell = locate<A>(base[2 * p], base[2 * p + 1], dy, dx, A(1), height, width);
    A weight[4];
    corner_weights(cell, A(1), weight);
    for (int c = 0; c < channels; ++c)
        store(output + p * channels + c, sample_channel(image + c, channels, cell, weight, height, width));
}
