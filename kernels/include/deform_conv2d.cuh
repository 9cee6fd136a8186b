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
    // Place of tap k of group g at an output pixel of image n in the mask; 2 * row of the first axis in the offset.
    __device__ __forceinline__ long long plane(long long n, int g, int k) const { return (n * groups + g) * taps + k; }
};

template <typename T, typename A>
__device__ __forceinline__ A modulation_of(const DeformConv2dShape& shape, const T* mask, long long plane,
                                           unsigned pixel) {
    return mask ? load<A>(mask[plane * shape.pixels() + pixel]) : A(1);
}

template <typename T, typename A>
__device__ __forceinline__ Cell<A> locate_tap(const DeformConv2dShape& shape, const T* offset, A modulation,
                                              const int* taps, long long plane, unsigned pixel, int k) {
    const A dy = load<A>(offset[2 * plane * shape.pixels() + pixel]);
    const A dx = load<A>(offset[(2 * plane + 1) * shape.pixels() + pixel]);
    const int oy = int(pixel / unsigned(shape.out_width)), ox = int(pixel % unsigned(shape.out_width));
    const int base_y = oy * shape.stride_y - shape.padding_y + taps[2 * k];
    const int base_x = ox * shape.stride_x - shape.padding_x + taps[2 * k + 1];
    return locate<A>(base_y, base_x, dy, dx, modulation, shape.height, shape.width);
}
