// Shapes of DCNv3, and where its taps sample.
//   input   [batch, height, width, groups * group_width]          channel c belongs to group c / group_width
//   offset  [batch, out_height, out_width, groups, taps, 2]       pairs (x, y), as published
//   mask    [batch, out_height, out_width, groups, taps]
//   output  [batch, out_height, out_width, groups * group_width]
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
    // The place of image n in the input: that of the group's first channel in its pixel 0.
    __device__ __forceinline__ long long image(int n, unsigned group) const {
        return (long long)n * height * width * channels() + (long long)group * group_width;
    }
};

// The taps of one output pixel and group: [eq:dcnv3.1].
//   row: number of (image, pixel, group), the place of its taps in offset and mask
template <typename T, typename A>
struct DCNv3Row {
    static constexpr bool NEIGHBOURS = true;  // the taps of a row lie next to each other in memory
    const T *offset, *mask;
    const int* taps;
    const A* residual;
    int base_y, base_x, height, width;
    A scale;

    __device__ __forceinline__ DCNv3Row(const DCNv3Shape& shape, const T* offsets, const T* masks, const int* taps,
                                   const A* residual, long long row, unsigned pixel)
        : offset(offsets + row * shape.taps * 2), mask(masks + row * shape.taps), taps(taps), residual(residual),
          base_y(int(pixel / unsigned(shape.out_width)) * shape.stride_y - shape.padding_y),
          base_x(int(pixel % unsigned(shape.out_width)) * shape.stride_x - shape.padding_x), height(shape.height),
          width(shape.width), scale(A(shape.offset_scale)) {}

    __device__ __forceinline__ A modulation(int k) const { return load<A>(mask[k]); }
    __device__ __forceinline__ A dy(int k) const { return residual[2 * k] + scale * load<A>(offset[2 * k + 1]); }
    __device__ __forceinline__ A dx(int k) const { return residual[2 * k + 1] + scale * load<A>(offset[2 * k]); }
    __device__ __forceinline__ Cell<A> cell(int k) const {
        return locate<A>(base_y + taps[2 * k], base_x + taps[2 * k + 1], dy(k), dx(k), modulation(k), height, width);
    }
};
