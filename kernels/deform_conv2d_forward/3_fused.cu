// Deformable convolution forward, rung 3: sampling fused into the matrix product. No columns in memory.
//
// What changed    A block computes a tile of 64 output pixels x 64 output channels. It samples 16 channels of one tap at
//                 its pixels into shared memory, loads the weights that belong to them, multiplies, and goes on: columns
//                 are used where they are made. While the threads multiply one pair of tiles they fill the other, so
//                 that one barrier a step is enough. All images in one launch; no product by the array library.
// What bounds it  Arithmetic, and the reads from shared memory that feed it. Every 64 output channels sample anew.
// How to run it   grid = ceil(batch * out_height * out_width / 64) * conv_groups * ceil(outputs / conv_groups / 64),
//                 block = 128
//
//   image [batch, height, width, channels], weight [conv_groups, taps, channels / conv_groups, outputs / conv_groups],
//   output [batch, outputs, out_height, out_width]; the rest as in deform_conv2d.cuh. bias and mask may be null.
//   [eq:deform.1], [eq:deform.2].
//   slice: channels that always have one offset group and one conv group in common, the gcd of the groups' widths.
//   PACKED: slice is a multiple of 4, and an image starts at a multiple of 16 bytes: 4 channels are one load.
// Channels-last, because a sample's 4 corners then are 4 runs of channels, whatever the offsets are: in NCHW every one of
// its values is a load of its own, and neighbouring pixels lie together only where their offsets are alike.
#include "tiles.cuh"

template <typename T, typename A, bool PACKED>
__global__ void __launch_bounds__(THREADS)
deform_conv2d_fused(const T* __restrict__ image, const T* __restrict__ offset, const T* __restrict__ mask,
                    const T* __restrict__ weight, const T* __restrict__ bias, const int* __restrict__ taps,
                    T* __restrict__ output, int slice, DeformConv2dShape shape) {
    constexpr int ROWS = 8, OUTPUTS = 8 * ROWS;
    __shared__ Tiles<A, ROWS> tiles[2];  // left: columns [channel, pixel]; right: weights [channel, output]

    const int outputs = shape.outputs / shape.conv_groups, per_group = shape.channels / shape.conv_groups;
    const unsigned across = unsigned(outputs + OUTPUTS - 1) / OUTPUTS;
    const int part = int(blockIdx.x % across) * OUTPUTS;  // the tile's first output in its conv group
    const int conv_group = int(blockIdx.x / across % unsigned(shape.conv_groups)), first_channel = conv_group * per_group;
    const long long first_pixel = blockIdx.x / (across * unsigned(shape.conv_groups)) * (long long)LEFT;

    // Two threads sample a pixel, each every other four channels.
    const int column = int(threadIdx.x) / 2, half = int(threadIdx.x) % 2 * 4;
    const BatchPixel pixel(shape, first_pixel + column);
    Product<A, ROWS> product;
    int turn = 0;
    for (int start = 0; start < per_group; start += slice) {
        const int group = (first_channel + start) / shape.group_width();
        for (int k = 0; k < shape.taps; ++k) {
            const BatchTap<A> tap(shape, offset, mask, taps, pixel, group, k);
            for (int c = start; c < start + slice; c += DEPTH, turn ^= 1) {
                const int depth = min(start + slice - c, DEPTH);
                const T* row = weight + (((long long)conv_group * shape.taps + k) * per_group + c) * outputs + part;
                fill<OUTPUTS>(tiles[turn].right, depth, [&](int d, int o) {
                    return part + o < outputs ? load<A>(row[(long long)d * outputs + o]) : A(0);
                });
                for (int d = half; d < depth; d += 8) {
                    const auto four = tap.template sample<PACKED>(image + first_channel + c + d, depth - d);
                    for (int i = 0; i < min(depth - d, 4); ++i) tiles[turn].left[d + i][column] = four.v[i];
                }
                __syncthreads();  // who is past it fills the other pair, which nobody reads any more
                product.add(tiles[turn], depth);
            }
        }
    }

    for (int i = 0; i < 4; ++i) {
        const BatchPixel at(shape, first_pixel + product.left() + i);
        if (!at.there) continue;
        UNROLL for (int r = 0; r < ROWS; ++r) {
            const int o = part + product.right() + r, plane = conv_group * outputs + o;
            if (o >= outputs) continue;
            const A shift = bias ? load<A>(bias[plane]) : A(0);
            store(output + at.in_plane(shape, shape.outputs, plane), product.sum[r].v[i] + shift);
        }
    }
}
