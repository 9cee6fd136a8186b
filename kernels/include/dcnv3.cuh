// Shapes of DCNv3, and where its taps sample.
//   input   [batch, height, width, groups * group_width]          channel c belongs to group c / group_width
//   offset  [batch, out_height, out_width, groups, taps, 2]       pairs (x, y), as published
//   mask    [batch, out_height, out_width, groups, taps]
//   output  [batch, out_height, out_width, groups * group_width]
// Images, and arrays of them, may be of any size; the outputs of one image, out_height * out_width * channels, must
// number less than 2^31 (they are the threads of a grid), which the caller checks.
//   taps    [taps, 2] int, residual [taps, 2]                     pairs (y, x): SamplingGrid.taps and .residual
#pragma once

#include "bilinear.cuh"

struct DCNv3Shape {
    int batch, height, width, groups, group_width;
    int out_height, out_width, taps;
    int stride_y, stride_x, padding_y, padding_x;
    double offset_scale;

    __device__ __forceinline__ long long channels() const { return (long long)groups * group_width; }
    // Outputs of one image, with a thread each: (pixel, group) pairs, and channels.
    __device__ __forceinline__ unsigned rows() const { return unsigned(out_height) * out_width * groups; }
};

// The cell of tap `k` at output pixel `pixel` of its image. `row` numbers (image, pixel, group): the place of its taps
// in offset and mask.
template <typename T, typename A>
__device__ __forceinline__ Cell<A> locate_tap(const DCNv3Shape& shape, const T* offset, A modulation, const int* taps,
                                              const A* residual, long long row, unsigned pixel, int k) {
    const T* pair = offset + (row * shape.taps + k) * 2;
    const A scale = A(shape.offset_scale);
    const A dx = residual[2 * k + 1] + scale * load<A>(pair[0]);
    const A dy = residual[2 * k] + scale * load<A>(pair[1]);
    const int oy = int(pixel / unsigned(shape.out_width)), ox = int(pixel % unsigned(shape.out_width));
    const int base_y = oy * shape.stride_y - shape.padding_y + taps[2 * k];
    const int base_x = ox * shape.stride_x - shape.padding_x + taps[2 * k + 1];
    return locate<A>(base_y, base_x, dy, dx, modulation, shape.height, shape.width);
}
