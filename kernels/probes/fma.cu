// Probe: how many fused multiply-adds a second the GPU issues.
//
// What it does    Eight chains a thread of x = a x + b, which do not wait for each other.
// What it is for  The floor of arithmetic: bilinear interpolation is four multiply-adds a tap and channel. On the GPUs
//                 that have it, one instruction does two of them in half precision.
// How to run it   block = 256, as many blocks as the GPU holds at a time.
//
// With a = b = 1 chain i ends at i + steps: small whole numbers, so that the result can be checked.
//
// run: fma_chains<<<2, 64>>>(results=float[128], a=1.0f, b=1.0f, steps=5)
constexpr int CHAINS = 8;

__global__ void __launch_bounds__(256) fma_chains(float* __restrict__ results, float a, float b, int steps) {
    float x[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; ++i) x[i] = float(i);
#pragma unroll 4
    for (int step = 0; step < steps; ++step)
#pragma unroll
        for (int i = 0; i < CHAINS; ++i) x[i] = fmaf(a, x[i], b);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < CHAINS; ++i) sum += x[i];
    results[(long long)blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
