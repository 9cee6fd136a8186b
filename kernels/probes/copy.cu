// Probe: how many bytes a second go through device memory.
//
// What it does    to = from, four loads of 16 bytes a thread under way at a time. Read and written bytes both count.
// What it is for  The floor of every kernel: each byte of arguments and results has to move once.
// How to run it   grid = ceil(count / (4 * block)), block = 256; both arrays much larger than the second-level cache.
//
// run: copy<<<3, 64>>>(from=float4[700], to=float4[700], count=700)
constexpr int TOGETHER = 4;

__global__ void __launch_bounds__(256) copy(const float4* __restrict__ from, float4* __restrict__ to, int count) {
    const long long first = (long long)blockIdx.x * blockDim.x * TOGETHER + threadIdx.x;
    float4 value[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i)
        if (first + i * blockDim.x < count) value[i] = from[first + i * blockDim.x];
#pragma unroll
    for (int i = 0; i < TOGETHER; ++i)
        if (first + i * blockDim.x < count) to[first + i * blockDim.x] = value[i];
}
