// DCNv3 forward, rung 3: one thread, 16 bytes of channels.
//
// What changed    A group has a thread for every 16 bytes of its channels: 8 of type half, 4 float, 2 double. A corner is
//                 one load, neighbouring threads load neighbouring vectors, and every output is a store of 16 bytes. A tap
//                 is worked out without branches, and with a constant number of taps the loop over them is written out:
//                 the loads of one tap are under way while the next is worked out.
// What bounds it  Instructions, 1735 a thread of 8 channels of half on sm_90. About half of them work out the taps, which
//                 every thread of the group does for itself.
// How to run it   grid = ((out_height * out_width * groups * vectors + 127) // 128, batch), block = 128, with vectors =
//                 group_width / WIDTH a whole number and all arrays at multiples of 16 bytes. A batch of more than 65535
//                 goes on in the grid's third dimension.
//
// TAPS is the number of taps, or 0 for any. Shapes: dcnv3.cuh.
#include "tap.cuh"

template <typename T, typename A, int TAPS>
__global__ void __launch_bounds__(128)
dcnv3_forward_vector(const T* __restrict__ input, const T* __restrict__ offset, const T* __restrict__ mask,
                     const int* __restrict__ taps, const A* __restrict__ residual, T* __restrict__ output,
                     DCNv3Shape shape) {
    constexpr int WIDTH = WIDEST<T>;
    const int count = TAPS ? TAPS : shape.taps;
    const unsigned vectors = unsigned(shape.group_width / WIDTH), item = blockIdx.x * blockDim.x + threadIdx.x;
    const int n = int(blockIdx.z * gridDim.y + blockIdx.y);
    if (item >= shape.rows() * vectors || n >= shape.batch) return;
    const unsigned row = item / vectors, pixel = row / unsigned(shape.groups);
    const unsigned channel = item % (unsigned(shape.groups) * vectors) * WIDTH;

    const Packs<T> image = packs_of(input, shape, n, channel);
    const DCNv3Row<T, A> at(shape, offset, mask, taps, residual, (long long)n * shape.rows() + row, pixel);
    A sum[WIDTH] = {};
#pragma unroll TAPS > 0 ? TAPS : 1
    for (int k = 0; k < count; ++k) {
        const Tap<A> tap = tap_at(at, k, at.modulation(k));
        A weight[4];
        corner_weights(tap.ly, tap.lx, tap.modulation, weight);
        add_corners(sum, image, tap.pixel * image.right, tap.there, weight);
    }
    store_pack<WIDTH>(output + ((long long)n * shape.rows() * vectors + item) * WIDTH, sum);
}
