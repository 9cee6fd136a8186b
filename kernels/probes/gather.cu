// Probe: how many bytes a second come out of the first-level cache by gathers of 32-byte sectors.
//
// What it does    Two neighbouring lanes read the two halves of a sector, 16 bytes each, as where a lane takes eight
//                 halves of a channel group. Sectors are drawn at random from a tile that stays in the cache.
// What it is for  The floor of sampling: four corners a tap and channel, however well the cache works.
// How to run it   block = 256, as many blocks as the GPU holds at a time; `sectors` a power of two.
//
// sums[thread] is the exclusive or of all it has read: the loads cannot be left out, and the result can be checked.
//
// run: gather<<<2, 64>>>(tile=int4[64], sums=int[128], sectors=32, loads=19)
#include "random.cuh"

__global__ void __launch_bounds__(256) gather(const int4* __restrict__ tile, int* __restrict__ sums, int sectors,
                                              int loads) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned state = first_state(thread / 2);
    int sum = 0;
#pragma unroll 8
    for (int i = 0; i < loads; ++i) {
        state = next_state(state);
        const int4 value = tile[2 * draw(state, sectors) + thread % 2];
        sum ^= value.x ^ value.y ^ value.z ^ value.w;
    }
    sums[thread] = sum;
}
