// DCNv3 forward, rung 2: one thread, one pixel and group; the channel loop is inside.
//
// What changed    A tap is worked out once for WIDTH channels of its group, and the channels lie next to each other: on
//                 a CPU the loop over them becomes vector instructions. (On a GPU NVRTC loads them one by one.)
// What bounds it  On a GPU the loads of neighbouring threads lie a group apart (the next rung gives a group several
//                 threads, and 16-byte loads). On a CPU the loads from the first-level cache: four corners a tap.
// How to run it   grid = ((ceil(out_height * out_width * groups / ROWS) + 127) // 128, min(batch, 65535)), block = 128
//
// WIDTH channels are summed in registers at a time. Any group width works with any WIDTH; equal is fastest.
// A thread takes ROWS neighbouring rows (pixel, group) of taps: 1 on a GPU. A CPU has fewer threads and looks further
// ahead: while it waits for the samples of one row it can work on the places of the next.
#include "dcnv3.cuh"
#include "taps.cuh"

// `count` channels from `start` on, up to WIDTH, of `rows` rows of outputs from `first` on.
template <typename A, int WIDTH, int ROWS, typename T, typename RowOf>
__device__ __forceinline__ void forward_rows(const RowOf& row_of, const DCNv3Shape& shape, const T* image, T* output,
                                             unsigned first, int rows, int start, int count) {
    Lanes<A, WIDTH> sum[ROWS];
    for (int k = 0; k < shape.taps; k += TOGETHER) {
        const int together = shape.taps - k < TOGETHER ? shape.taps - k : TOGETHER;
        Taps<A> tap[ROWS];
        bool whole[ROWS];
        for (int r = 0; r < rows; ++r) whole[r] = tap[r].locate(row_of(first + r), k, together);
        for (int r = 0; r < rows; ++r) {
            const T* from = image + (first + r) % unsigned(shape.groups) * shape.group_width + start;
            const auto add = [&](int i, int there) {
                add_tap(sum[r], tap[r], i, there, from, shape.width, shape.channels(), count);
            };
            if (whole[r])
                for (int i = 0; i < together; ++i) add(i, ALL);
            else
                for (int i = 0; i < together; ++i) add(i, tap[r].there(i, shape.height, shape.width));
        }
    }
    for (int r = 0; r < rows; ++r) sum[r].store_to(output + (long long)(first + r) * shape.group_width + start, count);
}

template <typename T, typename A, int WIDTH, int ROWS>
__global__ void __launch_bounds__(128)
dcnv3_forward_point(const T* __restrict__ input, const T* __restrict__ offset, const T* __restrict__ mask,
                    const int* __restrict__ taps, const A* __restrict__ residual, T* __restrict__ output,
                    DCNv3Shape shape) {
    const unsigned first = (blockIdx.x * blockDim.x + threadIdx.x) * ROWS;
    if (first >= shape.rows()) return;
    const int rows = shape.rows() - first < ROWS ? int(shape.rows() - first) : ROWS;

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const auto row_of = [&](unsigned row) {
            const long long number = (long long)n * shape.rows() + row;
            return DCNv3Row<T, A>(shape, offset, mask, taps, residual, number, row / unsigned(shape.groups));
        };
        const T* image = input + (long long)n * shape.height * shape.width * shape.channels();
        T* to = output + (long long)n * shape.out_height * shape.out_width * shape.channels();
        int c = 0;
        for (; c + WIDTH <= shape.group_width; c += WIDTH)
            forward_rows<A, WIDTH, ROWS>(row_of, shape, image, to, first, rows, c, WIDTH);
        if (c < shape.group_width)
            forward_rows<A, WIDTH, ROWS>(row_of, shape, image, to, first, rows, c, shape.group_width - c);
    }
}
