// Deformable convolution backward, rung 3: the columns' gradient stays in the block that made it.
//
// What changed    A block has 32 output pixels and one tap of one offset group. It multiplies the weights by grad_output,
//                 64 channels at a time: the gradient of the columns, in shared memory. From there 4 threads a pixel
//                 take it to grad_offset and grad_mask, sums of their own, and scatter it into grad_image.
// What bounds it  The four scattered sums a tap and channel. Groups of less than 64 channels leave threads without work.
// How to run it   grid = ceil(batch * out_height * out_width / 32) * groups * taps, block = 128, grad_image (of type A) set
//                 to 0 before. The gradient of the weights: deform_conv2d_weight_backward/1_parts.cu.
//
//   grad_output [batch, outputs, out_height, out_width], image and grad_image [batch, height, width, channels],
//   weight [conv_groups, outputs / conv_groups, taps, channels / conv_groups]; the rest as in deform_conv2d.cuh.
//   grad_mask may be null. slice: as in 3_fused.cu of deform_conv2d_forward.
//   [eq:deform.3].
// __launch_bounds__(THREADS, 3): with nothing said of blocks, NVRTC spills registers to make room for more of them.
#include "tiles.cuh"
#include "warp.cuh"

constexpr unsigned PER_PIXEL = 4;  // threads, neighbours in a warp

template <typename T, typename A>
__global__ void __launch_bounds__(THREADS, 3)
deform_conv2d_fused_backward(const T* __restrict__ grad_output, const T* __restrict__ image,
                             const T* __restrict__ offset, const T* __restrict__ mask, const T* __restrict__ weight,
                             const int* __restrict__ taps, Scattered<A> grad_image, T* __restrict__ grad_offset,
                             T* __restrict__ grad_mask, int slice, DeformConv2dShape shape) {
    constexpr int ROWS = 4, PIXELS = 8 * ROWS;
    __shared__ Tiles<A, ROWS> tiles[2];        // left: weights [output, channel]; right: grad_output [output, pixel]
    __shared__ A grad_columns[PIXELS][LEFT + 4];  // [pixel, channel]

    const int k = int(blockIdx.x % unsigned(shape.taps)), group = int(blockIdx.x / shape.taps % unsigned(shape.groups));
    const long long first = blockIdx.x / (unsigned(shape.taps) * shape.groups) * (long long)PIXELS;
    const int outputs = shape.outputs / shape.conv_groups, per_group = shape.channels / shape.conv_groups;
    const BatchPixel arriving(shape, first + threadIdx.x % PIXELS), pixel(shape, first + threadIdx.x / PER_PIXEL);
    const BatchTap<A> tap(shape, offset, mask, taps, pixel, group, k);

    SampleGradient<A> gradient = {A(0), A(0), A(0)};
    int turn = 0;
    for (int start = group * shape.group_width(); start < (group + 1) * shape.group_width(); start += slice) {
        const int conv_group = start / per_group;
        for (int c = start; c < start + slice; c += LEFT) {
            const int channels = min(start + slice - c, LEFT);
            Product<A, ROWS> product;
            for (int o = conv_group * outputs; o < (conv_group + 1) * outputs; o += DEPTH, turn ^= 1) {
                const int depth = min((conv_group + 1) * outputs - o, DEPTH);
                const T* row = weight + ((long long)o * shape.taps + k) * per_group + c % per_group;
                fill<LEFT>(tiles[turn].left, depth, [&](int d, int channel) {
                    return channel < channels ? load<A>(row[(long long)d * shape.taps * per_group + channel]) : A(0);
                });
                fill<PIXELS>(tiles[turn].right, depth, [&](int d, int) {  // a spare pixel's sums go nowhere
                    return load<A>(grad_output[arriving.in_plane(shape, shape.outputs, o + d)]);
                });
                __syncthreads();  // who is past it fills the other pair, which nobody reads any more
                product.add(tiles[turn], depth);
            }
            UNROLL for (int r = 0; r < ROWS; ++r)
                product.sum[r].store_to(grad_columns[product.right() + r] + product.left(), 4);
            __syncthreads();
            if (!tap.corners.there) continue;
            for (int i = int(threadIdx.x % PER_PIXEL) * 4; i < channels; i += PER_PIXEL * 4) {
                const SampleGradient<A> four = sample_backward<4>(
                    grad_columns[threadIdx.x / PER_PIXEL] + i, image + c + i, grad_image + (long long)(c + i),
                    tap.corners, tap.weight, tap.ly, tap.lx, tap.modulation, min(channels - i, 4));
                gradient.y += four.y;
                gradient.x += four.x;
                gradient.modulation += four.modulation;
            }
        }
    }

    if (tap.modulation != tap.modulation) gradient = broken_gradient<A>();
    gradient = {lane_sum(gradient.y, PER_PIXEL), lane_sum(gradient.x, PER_PIXEL),
                lane_sum(gradient.modulation, PER_PIXEL)};
    if (!pixel.there || threadIdx.x % PER_PIXEL) return;
    const int plane = group * shape.taps + k, planes = shape.groups * shape.taps;
    store(grad_offset + pixel.in_plane(shape, 2 * planes, 2 * plane), gradient.y);
    store(grad_offset + pixel.in_plane(shape, 2 * planes, 2 * plane + 1), gradient.x);
    if (grad_mask) store(grad_mask + pixel.in_plane(shape, planes, plane), gradient.modulation);
}
