// DCNv3 forward, rung 4: taps become records in shared memory, which all threads of a group read.
//
// What changed    A tap is worked out once for a pixel and group: where its cell is, which corners exist, and their weights
//                 times the modulation, in a record. A barrier, then the threads of 16 bytes of channels read what they
//                 need of it: a load from shared memory that serves all threads of the group at once. The softmax over
//                 the taps can be part of it (SOFTMAX): the modulation never exists in memory.
// What bounds it  In half still instructions, 895 a thread of 8 channels on sm_90 (after the barrier; before it about 740 a
//                 row): two thirds convert each channel of each corner to float and multiply it. In float probably the
//                 loads of the corners from the first-level cache.
// How to run it   grid = (ceil(out_height * out_width * groups / ROWS), batch), block = 128, with whole vectors in a group
//                 and all arrays at multiples of 16 bytes; a large batch as in rung 3
//
// For 9 taps. ROWS rows (pixel, group) are a block's, at most one a thread. Shapes: dcnv3.cuh; with SOFTMAX the mask holds logits.
#include "records.cuh"

template <typename A>
struct __align__(16) Weights { A of[4]; };
struct __align__(8) Place { int cell, there; };  // cell: in packs

template <typename T, typename A, int ROWS, bool SOFTMAX>
__global__ void __launch_bounds__(128)
dcnv3_forward_records(const T* __restrict__ input, const T* __restrict__ offset, const T* __restrict__ mask,
                      const int* __restrict__ taps, const A* __restrict__ residual, T* __restrict__ output,
                      DCNv3Shape shape) {
    // Two arrays, with one tap of all rows before the next: neighbouring threads then use neighbouring banks.
    __shared__ Weights<A> weights[USUAL * ROWS];
    __shared__ Place places[USUAL * ROWS];
    constexpr int WIDTH = WIDEST<T>;
    const int n = int(blockIdx.z * gridDim.y + blockIdx.y);
    if (n >= shape.batch) return;  // the block as a whole: nobody waits for it at the barrier
    const unsigned first = blockIdx.x * ROWS, rows = min(shape.rows() - first, unsigned(ROWS));
    const unsigned vectors = unsigned(shape.group_width / WIDTH);
    const int packs = int(shape.channels() / WIDTH);  // of a pixel

    const auto make = [&](unsigned r, int k, const Tap<A>& tap) {
        corner_weights(tap.ly, tap.lx, tap.modulation, weights[k * ROWS + r].of);
        places[k * ROWS + r] = {tap.pixel * packs, tap.there};
    };
    make_records<SOFTMAX>(shape, offset, mask, taps, residual, n, first, rows, make);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < rows * vectors; i += blockDim.x) {
        const unsigned r = i / vectors, item = first * vectors + i;
        const unsigned channel = item % (unsigned(shape.groups) * vectors) * WIDTH;
        const Packs<T> image = packs_of(input, shape, n, channel);
        A sum[WIDTH] = {};
#pragma unroll
        for (int k = 0; k < USUAL; ++k) {
            const Weights<A> weight = weights[k * ROWS + r];
            const Place place = places[k * ROWS + r];
            add_corners(sum, image, place.cell, place.there, weight.of);
        }
        store_pack<WIDTH>(output + ((long long)n * shape.rows() * vectors + item) * WIDTH, sum);
    }
}
