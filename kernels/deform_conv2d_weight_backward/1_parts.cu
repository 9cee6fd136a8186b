// Deformable convolution's gradient of the weights, rung 1: sampled anew, and summed up in parts. No columns in memory.
//
// What it does    grad_w_ock = sum over pixels p of grad_output_o(p) * m_gk(p) * x_c(p + p_k + offset_gk(p)): a product
//                 whose sum is long and whose result is small. So the pixels are cut into parts, to have enough blocks;
//                 a block has 64 outputs, 32 channels, one tap and one part. The array library adds up the parts: no
//                 atomics, and the same bits every time.
// What bounds it  Arithmetic: 16 multiplications a thread for every 8 values read from shared memory, and one sample of 4
//                 channels for every 256.
// How to run it   grid = (ceil(outputs / conv_groups / 64) * taps * channels / slice * ceil(slice / 32), parts), block =
//                 128; then the sum of the parts. each: pixels of a part, a multiple of 16
//
//   grad_output [batch, outputs, out_height, out_width], image [batch, height, width, channels],
//   grad_weight, of type A, [parts, conv_groups, taps, channels / conv_groups, outputs / conv_groups]; the rest as in
//   deform_conv2d.cuh. slice, PACKED: as in 3_fused.cu of deform_conv2d_forward.
//   [eq:deform.3].
// __launch_bounds__(THREADS, 4): with nothing said of blocks, NVRTC spills registers to make room for more of them.
#include "tiles.cuh"

template <typename T, typename A, bool PACKED>
__global__ void __launch_bounds__(THREADS, 4)
deform_conv2d_weight_parts(const T* __restrict__ grad_output, const T* __restrict__ image,
                           const T* __restrict__ offset, const T* __restrict__ mask, const int* __restrict__ taps,
                           A* __restrict__ grad_weight, int slice, int each, DeformConv2dShape shape) {
    constexpr int ROWS = 4, CHANNELS = 8 * ROWS;
    __shared__ Tiles<A, ROWS> tiles[2];  // left: grad_output [pixel, output]; right: columns [pixel, channel]

    const int outputs = shape.outputs / shape.conv_groups, per_group = shape.channels / shape.conv_groups;
    const unsigned across = unsigned(outputs + LEFT - 1) / LEFT, tiles_a_slice = unsigned(slice + CHANNELS - 1) / CHANNELS;
    const int o = int(blockIdx.x % across) * LEFT, k = int(blockIdx.x / across % unsigned(shape.taps));
    const unsigned tile = blockIdx.x / across / shape.taps;
    const int c = int(tile / tiles_a_slice) * slice + int(tile % tiles_a_slice) * CHANNELS;
    const int channels = min((c / slice + 1) * slice - c, CHANNELS), conv_group = c / per_group;

    // A thread has one pixel of a tile: it samples 4 channels there, and loads every 8th output.
    const int row = int(threadIdx.x) % DEPTH, lane = int(threadIdx.x) / DEPTH;
    Product<A, ROWS> product;
    int turn = 0;
    for (int step = 0; step < each; step += DEPTH, turn ^= 1) {
        const long long first = blockIdx.y * (long long)each + step;
        if (first >= shape.batch * (long long)shape.pixels()) break;  // for all threads of the block
        const BatchPixel pixel(shape, first + row);
        const BatchTap<A> tap(shape, offset, mask, taps, pixel, c / shape.group_width(), k);
        const auto four = tap.template sample<PACKED>(image + c + 4 * lane, channels - 4 * lane);
        four.store_to(tiles[turn].right[row] + 4 * lane, 4);
        for (int i = lane; i < LEFT; i += 8) {
            const bool there = pixel.there && o + i < outputs;
            const int plane = conv_group * outputs + o + i;
            tiles[turn].left[row][i] =
                there ? load<A>(grad_output[pixel.in_plane(shape, shape.outputs, plane)]) : A(0);
        }
        __syncthreads();  // who is past it fills the other pair, which nobody reads any more
        product.add(tiles[turn], DEPTH);
    }

    const long long matrix = ((long long)blockIdx.y * shape.conv_groups + conv_group) * shape.taps + k;
    UNROLL for (int r = 0; r < ROWS; ++r) {
        if (product.right() + r >= channels) continue;
        const long long to = (matrix * per_group + c % per_group + product.right() + r) * outputs;
        product.sum[r].store_to(grad_weight + to + o + product.left(), outputs - o - product.left());
    }
}
