// DCNv3 backward, rung 4: four neighbouring channels are added by one atomic operation.
//
// What changed    The scatter of rung 3, four channels at a time: a quarter of the operations that the memory carries out.
//                 GPUs of compute capability 9.0 and newer add a float4 at once; older ones still add one by one.
// What bounds it  The scattered sums, still: an input pixel is added to some 4 * taps times, by different blocks.
// How to run it   As 3_shuffle.cu, with a group_width that is a multiple of 4, and T float or __half: there is no such
//                 operation for double.
//
// Each of the four sums is atomic by itself. Shapes: dcnv3.cuh.
#include "group_lanes.cuh"
#include "scattered.cuh"

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
dcnv3_backward_vector_atomic(const T* __restrict__ grad_output, const T* __restrict__ input, const T* __restrict__ offset,
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
            for (int c = 0; c < WIDTH; c += 4) add_four(to + c, share + c);
        };
        row_backward(lane, row, shape, grad_output, input + image, number, grad_offset, grad_mask, scatter);
    }
}
