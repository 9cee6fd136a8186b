// Shapes of deformable convolution (DCNv1, DCNv2), and where its taps sample.
//   input   [batch, channels, height, width]                      channel c reads offset group c / (channels / groups)
//   offset  [batch, groups, taps, 2, out_height, out_width]       pairs (y, x), as published
//   mask    [batch, groups, taps, out_height, out_width], or null: modulation 1
//   weight  [outputs, channels / conv_groups, taps]
//   output  [batch, outputs, out_height, out_width]
//   taps    [taps, 2] int, pairs (y, x): SamplingGrid.taps
#pragma once

#include "bilinear.cuh"

struct DeformConv2dShape {
    int batch, channels, height, width, outputs;
    int groups, conv_groups, taps;
    int out_height, out_width, stride_y, stride_x, padding_y, padding_x;

    __device__ __forceinline__ int group_width() const { return channels / groups; }
    __device__ __forceinline__ unsigned pixels() const { return unsigned(out_height) * out_width; }
};

// The taps of offset group `group` at one output pixel of image n: [eq:deform.1].
template <typename T, typename A>
struct DeformConv2dRow {
    static constexpr bool NEIGHBOURS = false;  // from one tap to the next it is a whole plane
    const T *offset, *mask;
    const int* taps;
    long long pixels, plane, pixel;  // values of a plane of the offset or mask; tap 0's plane in the mask; place in it
    int base_y, base_x, height, width;

    __device__ __forceinline__ DeformConv2dRow(const DeformConv2dShape& shape, const T* offset, const T* mask,
                                               const int* taps, long long n, int group, unsigned pixel)
        : offset(offset), mask(mask), taps(taps), pixels(shape.pixels()),
          plane((n * shape.groups + group) * shape.taps), pixel(pixel),
          base_y(int(pixel / unsigned(shape.out_width)) * shape.stride_y - shape.padding_y),
          base_x(int(pixel % unsigned(shape.out_width)) * shape.stride_x - shape.padding_x), height(shape.height),
          width(shape.width) {}

    // Places of tap k in the mask, and of its vertical and horizontal shift in the offset.
    __device__ __forceinline__ long long mask_at(int k) const { return (plane + k) * pixels + pixel; }
    __device__ __forceinline__ long long y_at(int k) const { return 2 * (plane + k) * pixels + pixel; }
    __device__ __forceinline__ long long x_at(int k) const { return y_at(k) + pixels; }

    __device__ __forceinline__ A modulation(int k) const { return mask ? load<A>(mask[mask_at(k)]) : A(1); }
    __device__ __forceinline__ A dy(int k) const { return load<A>(offset[y_at(k)]); }
    __device__ __forceinline__ A dx(int k) const { return load<A>(offset[x_at(k)]); }
    __device__ __forceinline__ Cell<A> cell(int k) const {
        return locate<A>(base_y + taps[2 * k], base_x + taps[2 * k + 1], dy(k), dx(k), modulation(k), height, width);
    }
};
