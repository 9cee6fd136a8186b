// DCNv3 backward, rung 5: a block adds up a part of grad_input in shared memory.
//
// What changed    A block has TILE x TILE neighbouring outputs of one group. Their taps fall onto the same few pixels, AREA x
//                 AREA of them: these are summed up on the chip, and added to memory once, at the end. The area reaches
//                 beyond the regular taps (a halo), for offsets; what falls outside it goes to memory as before.
// What bounds it  Additions to shared memory. For float they are a loop of compare and swap: threads that add to the same
//                 sum wait for each other.
// How to run it   grid = (ceil(out_height / TILE) * ceil(out_width / TILE) * groups, min(batch, 65535)), block = 256,
//                 shared memory = AREA * AREA * group_width * sizeof(A), with grad_input (of type A) set to 0 before
//
// WIDTH is that of 3_shuffle.cu. Shapes: dcnv3.cuh.
#include "group_lanes.cuh"
#include "scattered.cuh"

// The first row or column of the area, so that it lies centred on the cells of the tile's regular taps.
//   base: of the tile's first output; first, last: of its taps
template <int TILE, int AREA>
__device__ __forceinline__ int area_start(int base, int stride, int first, int last) {
    const int behind = last + (TILE - 1) * stride + 1;  // relative to base: the last corner of the last tap
    return base + (first + behind - (AREA - 1)) / 2;
}

template <typename T, typename A, int WIDTH, int TILE, int AREA>
__global__ void __launch_bounds__(256, 3)
dcnv3_backward_tile(const T* __restrict__ grad_output, const T* __restrict__ input, const T* __restrict__ offset,
                    const T* __restrict__ mask, const int* __restrict__ taps, const A* __restrict__ residual,
                    Scattered<A> grad_input, T* __restrict__ grad_offset, T* __restrict__ grad_mask,
                    DCNv3Shape shape) {
    extern __shared__ double memory[];
    A* const sums = reinterpret_cast<A*>(memory);  // [AREA, AREA, group_width]
    const int width = shape.group_width, size = AREA * AREA * width;
    const unsigned group = blockIdx.x % unsigned(shape.groups), tile = blockIdx.x / unsigned(shape.groups);
    const unsigned across = unsigned(shape.out_width + TILE - 1) / TILE;
    const int out_y = int(tile / across) * TILE, out_x = int(tile % across) * TILE;
    const int* last = taps + 2 * (shape.taps - 1);
    const int area_y = area_start<TILE, AREA>(out_y * shape.stride_y - shape.padding_y, shape.stride_y, taps[0], last[0]);
    const int area_x = area_start<TILE, AREA>(out_x * shape.stride_x - shape.padding_x, shape.stride_x, taps[1], last[1]);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long step = shape.channels(), image = shape.image(n, group);
        for (int i = threadIdx.x; i < size; i += blockDim.x) sums[i] = A(0);
        __syncthreads();
        for (unsigned start = 0; start < TILE * TILE * lanes_of<WIDTH>(width); start += blockDim.x) {
            RowLane<WIDTH> lane(start + threadIdx.x, TILE * TILE, width);
            int y = out_y + int(lane.row) / TILE, x = out_x + int(lane.row) % TILE;
            if (y >= shape.out_height || x >= shape.out_width) {  // the last tiles stand out: along to the shuffles, idle
                lane.has_channels = lane.is_first = false;
                y = out_y;
                x = out_x;
            }
            const unsigned pixel = unsigned(y) * unsigned(shape.out_width) + unsigned(x);
            const long long number = (long long)n * shape.rows() + (long long)pixel * shape.groups + group;
            const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, number, pixel);
            const auto scatter = [&](const Cell<A>& cell, int corner, const A share[WIDTH]) {
                const int at_y = cell.row + corner / 2 - area_y, at_x = cell.column + corner % 2 - area_x;
                const bool near = unsigned(at_y) < AREA && unsigned(at_x) < AREA;
                A* const sum = sums + (at_y * AREA + at_x) * width + lane.channel;
                const Scattered<A> far = grad_input + (image + cell.pixel(corner, shape.width) * step + lane.channel);
                for (int c = 0; c < WIDTH; ++c) {
                    if (near) atomicAdd(sum + c, share[c]);
                    else atomicAdd(far + c, share[c]);
                }
            };
            row_backward(lane, row, shape, grad_output, input + image + lane.channel, number, grad_offset, grad_mask, scatter);
        }
        __syncthreads();
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            const int at = i / width, y = area_y + at / AREA, x = area_x + at % AREA;
            if (sums[i] == A(0)) continue;  // nothing came here, as wherever the area stands out of the image
            atomicAdd(grad_input + (image + ((long long)y * shape.width + x) * step + i % width), sums[i]);
        }
    }
}
