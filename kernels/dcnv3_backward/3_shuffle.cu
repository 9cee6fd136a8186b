// DCNv3 backward, rung 3: a group's channels spread over lanes of a warp.
//
// What changed    Several lanes share a pixel and group, WIDTH channels each: their loads are whole vectors, and lie next to
//                 each other. All three gradients follow from the four dot products <corner, arriving gradient>; every
//                 lane has a part of each, and shuffles add the parts up without touching memory.
// What bounds it  The scattered sums: an atomic addition a corner, tap and channel. And every lane works out the place
//                 of the tap for itself.
// How to run it   grid = ((out_height * out_width * groups * lanes + 127) // 128, min(batch, 65535)), block = 128, with
//                 grad_input (of type A) set to 0 before
//
// WIDTH divides group_width; lanes is the power of two that WIDTH * lanes >= group_width asks for, at most 32.
// The shuffles are in warp.cuh and group_lanes.cuh. Shapes: dcnv3.cuh.
// __launch_bounds__(128, 8): with nothing said of blocks, NVRTC spills registers to make room for more of them.
#include "group_lanes.cuh"
#include "scattered.cuh"

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128, 8)
dcnv3_backward_shuffle(const T* __restrict__ grad_output, const T* __restrict__ input, const T* __restrict__ offset,
                       const T* __restrict__ mask, const int* __restrict__ taps, const A* __restrict__ residual,
                       Scattered<A> grad_input, T* __restrict__ grad_offset, T* __restrict__ grad_mask,
                       DCNv3Shape shape) {
    const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
    const RowLane<WIDTH> lane(thread, shape.rows(), shape.group_width);
    const unsigned pixel = lane.row / unsigned(shape.groups), group = lane.row % unsigned(shape.groups);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long number = (long long)n * shape.rows() + lane.row, image = shape.image(n, group) + lane.channel;
        const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, number, pixel);
        const auto scatter = [&](const Cell<A>& cell, int corner, const A share[WIDTH]) {
            const Scattered<A> to = grad_input + (image + cell.pixel(corner, shape.width) * shape.channels());
            for (int c = 0; c < WIDTH; ++c) atomicAdd(to + c, share[c]);
        };
        row_backward(lane, row, shape, grad_output, input + image, number, grad_offset, grad_mask, scatter);
    }
}
