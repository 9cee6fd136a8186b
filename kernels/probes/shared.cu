// Probe: how many int32 additions a second shared memory takes.
//
// What it does    Each block adds into a tile of 32 KB in shared memory: lanes that lie next to each other to the 16
//                 numbers of a segment, segments drawn at random. Then the tile is written out once.
// What it is for  A backward pass that collects in a tile: of the atomics on shared memory, only those of integers are
//                 done by the hardware itself.
// How to run it   block = 256, as many blocks as the GPU holds at a time; sums has TILE numbers a block.
//
// run: shared_add<<<2, 64>>>(sums=int[16384], adds=5, value=3)
#include "random.cuh"

constexpr int SEGMENT = 16, TILE = 8192;

__global__ void __launch_bounds__(256) shared_add(int* __restrict__ sums, int adds, int value) {
    __shared__ int tile[TILE];
    for (int i = threadIdx.x; i < TILE; i += blockDim.x) tile[i] = 0;
    __syncthreads();
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned state = first_state(thread / SEGMENT);
#pragma unroll 4
    for (int i = 0; i < adds; ++i) {
        state = next_state(state);
        atomicAdd(tile + draw(state, TILE / SEGMENT) * SEGMENT + thread % SEGMENT, value);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < TILE; i += blockDim.x) sums[(long long)blockIdx.x * TILE + i] = tile[i];
}
