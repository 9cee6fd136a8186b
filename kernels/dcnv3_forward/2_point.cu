// DCNv3 forward, rung 2: one thread, one pixel and group; the channel loop is inside.
//
// What changed    A tap is worked out once for all channels of its group, and the channels lie next to each other: on
//                 a CPU the loop over them becomes vector instructions, on a GPU 16-byte loads.
// What bounds it  On a GPU the loads of neighbouring threads lie a group apart (a later rung gives a group several
//                 threads). On a CPU the loads from the first-level cache: four corners a tap.
// How to run it   grid = ((out_height * out_width * groups + 127) // 128, min(batch, 65535)), block = 128
//
// WIDTH channels are summed in registers at a time. Any group width works with any WIDTH; equal is fastest.
#include "dcnv3.cuh"
#include "taps.cuh"

// `count` channels of one row of outputs, up to WIDTH.
template <int WIDTH, typename T, typename A>
__device__ __forceinline__ Lanes<A, WIDTH> forward_lanes(const DCNv3Row<T, A>& row, const T* image, const DCNv3Shape& shape,
                                                         int count) {
    Lanes<A, WIDTH> sum;
    for (int first = 0; first < shape.taps; first += TOGETHER) {
        const int taps = shape.taps - first < TOGETHER ? shape.taps - first : TOGETHER;
        Taps<A> tap;
        tap.locate_whole(row, first, taps);
        for (int i = 0; i < taps; ++i) add_tap(sum, row, tap, first, i, image, shape.channels(), count);
    }
    return sum;
}

template <typename T, typename A, int WIDTH>
__global__ void __launch_bounds__(128)
dcnv3_forward_point(const T* __restrict__ input, const T* __restrict__ offset, const T* __restrict__ mask,
                    const int* __restrict__ taps, const A* __restrict__ residual, T* __restrict__ output,
                    DCNv3Shape shape) {
    const unsigned item = blockIdx.x * blockDim.x + threadIdx.x;
    if (item >= shape.rows()) return;
    const unsigned pixel = item / unsigned(shape.groups), group = item % unsigned(shape.groups);

    for (int n = blockIdx.y; n < shape.batch; n += gridDim.y) {
        const long long start = (long long)group * shape.group_width;
        const T* image = input + (long long)n * shape.height * shape.width * shape.channels() + start;
        T* to = output + ((long long)n * shape.out_height * shape.out_width + pixel) * shape.channels() + start;
        const DCNv3Row<T, A> row(shape, offset, mask, taps, residual, (long long)n * shape.rows() + item, pixel);
        int c = 0;
        for (; c + WIDTH <= shape.group_width; c += WIDTH)
            forward_lanes<WIDTH>(row, image + c, shape, WIDTH).store_to(to + c, WIDTH);
        if (c < shape.group_width)
            forward_lanes<WIDTH>(row, image + c, shape, shape.group_width - c).store_to(to + c, shape.group_width - c);
    }
}
