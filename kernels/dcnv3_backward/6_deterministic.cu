// DCNv3 backward, rung 6: taps sorted by cell, then gathered: the same sums, bit for bit, in every run.
//
// What changed    Nothing is scattered. A counting sort lists the taps of every cell, and each input pixel gathers what comes
//                 from its four cells, in a fixed order: no floating-point atomics, whose order a GPU decides anew each time.
//                   taps           the gradients of offset and mask, as in rung 3
//                   fill           without lists: how many taps fall into each cell
//                   scan           exclusive prefix sums of these counts: where the list of each cell starts
//                   fill           writes the taps' numbers into the lists; then starts[cell] is where its list ends
//                   sort           brings every list into order: atomics filled it in any
//                   deterministic  gathers
// What bounds it  Reading: every tap is looked up by the four pixels of its cell, with offset, mask and arriving gradient.
// How to run it   starts = 0, int [batch, groups, (height + 1) * (width + 1)]; lists, int [batch, groups, out_height *
//                 out_width * taps]. Blocks are 128 threads, those of scan 256; grids: dcnlab/compiled/dcnv3_rungs.py.
//
// __launch_bounds__(128, 8): with nothing said of blocks, NVRTC spills registers to make room for more of them.
// Every image and group has lists of its own: no sum crosses these. Shapes: dcnv3.cuh.
#include "group_lanes.cuh"

// Cells begin at the pixels from (-1, -1) to (height - 1, width - 1).
__device__ __forceinline__ int cells_of(const DCNv3Shape& shape) { return (shape.height + 1) * (shape.width + 1); }
__device__ __forceinline__ int cell_number(const DCNv3Shape& shape, int row, int column) {
    return (row + 1) * (shape.width + 1) + column + 1;
}
__device__ __forceinline__ long long list_length(const DCNv3Shape& shape) {
    return (long long)shape.out_height * shape.out_width * shape.taps;
}

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128, 8)
dcnv3_backward_taps(const T* __restrict__ grad_output, const T* __restrict__ input, const T* __restrict__ offset,
                    const T* __restrict__ mask, const int* __restrict__ taps, const A* __restrict__ residual,
                    T* __restrict__ grad_offset, T* __restrict__ grad_mask, DCNv3Shape shape) {
    const RowLane<WIDTH> lane(blockIdx.x * blockDim.x + threadIdx.x, shape.rows(), shape.group_width);
    const unsigned pixel = lane.row / unsigned(shape.groups), group = lane.row % unsigned(shape.groups);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long number = (long long)n * shape.rows() + lane.row, image = shape.image(n, group) + lane.channel;
        const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, number, pixel);
        row_backward(lane, row, shape, grad_output, input + image, number, grad_offset, grad_mask,
                     [](const Cell<A>&, int, const A*) {});
    }
}

// A block scans all cells of an image and group.
__global__ void __launch_bounds__(256) dcnv3_backward_scan(int* __restrict__ starts, DCNv3Shape shape) {
    __shared__ int sums[8];  // of the warps
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, cells = cells_of(shape);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        int* const here = starts + ((long long)n * shape.groups + blockIdx.x) * cells;
        int before = 0;
        for (int first = 0; first < cells; first += blockDim.x) {
            const int i = first + threadIdx.x, count = i < cells ? here[i] : 0;
            int sum = count;  // of the warp's lanes up to this one
            for (int step = 1; step < 32; step *= 2) {
                const int left = __shfl_up_sync(WHOLE_WARP, sum, step);
                if (lane >= step) sum += left;
            }
            if (lane == 31) sums[warp] = sum;
            __syncthreads();
            int start = before + sum - count;  // exclusive: without the cell's own
            for (int w = 0; w < 8; ++w) {
                if (w < warp) start += sums[w];
                before += sums[w];
            }
            if (i < cells) here[i] = start;
            __syncthreads();
        }
    }
}

template <typename T, typename A>
__global__ void __launch_bounds__(128)
dcnv3_backward_fill(const T* __restrict__ offset, const T* __restrict__ mask, const int* __restrict__ taps,
                    const A* __restrict__ residual, int* __restrict__ starts, int* __restrict__ lists, DCNv3Shape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= shape.rows()) return;
    const unsigned pixel = item / unsigned(shape.groups), group = item % unsigned(shape.groups);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long segment = (long long)n * shape.groups + group, number = (long long)n * shape.rows() + item;
        const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, number, pixel);
        for (int k = 0; k < shape.taps; ++k) {
            const Cell<A> cell = row.cell(k);
            if (cell.sample != INSIDE && cell.sample != BORDER) continue;
            int* const next = starts + segment * cells_of(shape) + cell_number(shape, cell.row, cell.column);
            const int place = atomicAdd(next, 1);
            if (lists) lists[segment * list_length(shape) + place] = int(pixel) * shape.taps + k;
        }
    }
}

// A thread sorts the list of a cell. A list is short, as a rule, but all taps may be in one: Shell's sort bears that.
__global__ void __launch_bounds__(128)
dcnv3_backward_sort(const int* __restrict__ starts, int* __restrict__ lists, DCNv3Shape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x, cells = unsigned(cells_of(shape));
    if (item >= unsigned(shape.groups) * cells) return;

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long segment = (long long)n * shape.groups + item / cells;
        const int* const end = starts + segment * cells + item % cells;
        const int start = item % cells ? end[-1] : 0, count = *end - start;
        int* const list = lists + segment * list_length(shape) + start;
        int gap = 1;
        while (gap < count / 3) gap = 3 * gap + 1;
        for (; gap > 0; gap /= 3)
            for (int i = gap; i < count; ++i) {
                const int tap = list[i];
                int j = i;
                for (; j >= gap && list[j - gap] > tap; j -= gap) list[j] = list[j - gap];
                list[j] = tap;
            }
    }
}

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128, 8)
dcnv3_backward_deterministic(const T* __restrict__ grad_output, const T* __restrict__ offset, const T* __restrict__ mask,
                             const int* __restrict__ taps, const A* __restrict__ residual, const int* __restrict__ starts,
                             const int* __restrict__ lists, T* __restrict__ grad_input, DCNv3Shape shape) {
    const unsigned rows = unsigned(shape.height) * shape.width * shape.groups;
    const RowLane<WIDTH> lane(blockIdx.x * blockDim.x + threadIdx.x, rows, shape.group_width);
    if (!lane.has_channels) return;
    const unsigned group = lane.row % unsigned(shape.groups), number = lane.row / unsigned(shape.groups);
    const int y = int(number / unsigned(shape.width)), x = int(number % unsigned(shape.width));

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long segment = (long long)n * shape.groups + group;
        const int* const list = lists + segment * list_length(shape);
        A sum[WIDTH] = {};
        for (int corner = 0; corner < 4; ++corner) {  // which this pixel is of the cell
            const int cell = cell_number(shape, y - corner / 2, x - corner % 2);
            const int* const end = starts + segment * cells_of(shape) + cell;
            for (int i = cell ? end[-1] : 0; i < *end; ++i) {
                const unsigned pixel = unsigned(list[i]) / unsigned(shape.taps);
                const int k = int(unsigned(list[i]) % unsigned(shape.taps));
                const long long item = (long long)n * shape.rows() + (long long)pixel * shape.groups + group;
                const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, item, pixel);
                A weight[4], g[WIDTH];
                corner_weights(row.cell(k), row.modulation(k), weight);
                load_pack<WIDTH>(grad_output + (item * shape.group_width + lane.channel), g);
                for (int c = 0; c < WIDTH; ++c) sum[c] += weight[corner] * g[c];
            }
        }
        T* const to = grad_input + (((long long)n * rows + lane.row) * shape.group_width + lane.channel);
        for (int c = 0; c < WIDTH; ++c) store(to + c, sum[c]);
    }
}
