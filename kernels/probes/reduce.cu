// Probe: how many floating-point reductions a second the memory takes, one float or four (float4) at a time.
//
// What it does    Lanes that lie next to each other add to the 16 floats of a segment, as to 16 channels of a pixel;
//                 segments are drawn at random. Nobody uses what atomicAdd returns, so that it is a reduction, which
//                 the second-level cache does by itself.
// What it is for  The backward pass that scatters: four reductions a tap and channel.
// How to run it   block = 256, as many blocks as the GPU holds at a time; `segments` a power of two.
//
// float4 reductions exist from sm_90 on; before, four single ones take their place.
//
// run: reduce<1><<<2, 64>>>(sums=float[512]=zeros, segments=32, adds=5, value=1.0f)
// run: reduce<4><<<2, 64>>>(sums=float[512]=zeros, segments=32, adds=5, value=1.0f)
#include "random.cuh"

constexpr int SEGMENT = 16;

template <int WIDTH>
__device__ __forceinline__ void add(float* to, float value) {
    if constexpr (WIDTH == 1) {
        atomicAdd(to, value);
    } else {
#if defined(DCNLAB_CPU) || __CUDA_ARCH__ >= 900
        atomicAdd(reinterpret_cast<float4*>(to), make_float4(value, value, value, value));
#else
        for (int i = 0; i < WIDTH; ++i) atomicAdd(to + i, value);
#endif
    }
}

template <int WIDTH>
__global__ void __launch_bounds__(256) reduce(float* sums, int segments, int adds, float value) {
    constexpr unsigned LANES = SEGMENT / WIDTH;  // that share a segment
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned state = first_state(thread / LANES);
#pragma unroll 4
    for (int i = 0; i < adds; ++i) {
        state = next_state(state);
        add<WIDTH>(sums + (long long)draw(state, segments) * SEGMENT + thread % LANES * WIDTH, value);
    }
}
