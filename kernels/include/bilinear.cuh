// Bilinear cells: the one place in the kernels that knows how to read between pixels.
//
// A sample stands at base + displacement; the integer base and the (small) displacement are never added, so that float
// keeps its accuracy on large images. It falls into the cell of pixel (row, column) = floor(position), at the fractions
// (ly, lx) from that corner. Conventions: dcnlab/reference/sampling.py.
//   T: type of the arrays, A: type of the arithmetic (float for half and float, double for double)
#pragma once

#include <cuda_fp16.h>

template <typename A>
__device__ __forceinline__ A load(float value) { return A(value); }
template <typename A>
__device__ __forceinline__ A load(double value) { return A(value); }
template <typename A>
__device__ __forceinline__ A load(__half value) { return A(__half2float(value)); }

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(double* to, double value) { *to = value; }
__device__ __forceinline__ void store(__half* to, float value) { *to = __float2half(value); }

// Not a number, without a header that NVRTC lacks.
template <typename A>
__device__ __forceinline__ A not_a_number() { return A(__int_as_float(0x7fc00000)); }

// What a sample touches.
enum Sample {
    NOWHERE,  // outside (-1, H) x (-1, W): value, slopes and gradients are 0
    BROKEN,   // a NaN in position or modulation: value and gradients are NaN, no pixel is touched
    BORDER,   // at least one corner of the cell lies outside the image and counts as 0
    INSIDE    // all four corners are pixels
};

template <typename A>
struct Cell {
    Sample sample;
    int row, column;
    A ly, lx;

    // Corner i of v00, v01, v10, v11 is the pixel (row + i / 2, column + i % 2), where that exists.
    __device__ __forceinline__ bool has(int corner, int height, int width) const {
        const int y = row + corner / 2, x = column + corner % 2;
        return y >= 0 && y < height && x >= 0 && x < width;
    }
    __device__ __forceinline__ long long pixel(int corner, int width) const {
        return (long long)(row + corner / 2) * width + column + corner % 2;
    }
};

// Which corners of the cell at (row, column) exist: bit i for corner i of v00, v01, v10, v11. A sample at exactly -1 does not
// touch the image: there the far side does not count.
template <typename A>
__device__ __forceinline__ int existing_corners(int row, int column, A ly, A lx, int height, int width) {
    const bool top = unsigned(row) < unsigned(height), left = unsigned(column) < unsigned(width);
    const bool bottom = (unsigned(row + 1) < unsigned(height)) & ((row >= 0) | (ly > A(0)));
    const bool right = (unsigned(column + 1) < unsigned(width)) & ((column >= 0) | (lx > A(0)));
    return ((top ? 3 : 0) | (bottom ? 12 : 0)) & ((left ? 5 : 0) | (right ? 10 : 0));
}

// Displacements beyond 2^30 pixels are outside every image; the bound keeps floor() within an int.
template <typename A>
__device__ __forceinline__ Cell<A> locate(int base_y, int base_x, A dy, A dx, A modulation, int height, int width) {
    const A far = A(1 << 30);
    Cell<A> cell = {NOWHERE, 0, 0, A(0), A(0)};
    if (dy != dy || dx != dx || modulation != modulation) {
        cell.sample = BROKEN;
        return cell;
    }
    if (!(dy > -far && dy < far && dx > -far && dx < far)) return cell;
    const A below = floor(dy), left = floor(dx);
    cell.row = base_y + int(below);
    cell.column = base_x + int(left);
    cell.ly = dy - below;
    cell.lx = dx - left;
    // -1 < position < size; the fraction may round up to 1, never beyond.
    const bool in_y = cell.row + (cell.ly > A(0)) >= 0 && cell.row < height;
    const bool in_x = cell.column + (cell.lx > A(0)) >= 0 && cell.column < width;
    if (!in_y || !in_x) return cell;
    const bool whole = cell.row >= 0 && cell.row + 1 < height && cell.column >= 0 && cell.column + 1 < width;
    cell.sample = whole ? INSIDE : BORDER;
    return cell;
}

// Weights of v00, v01, v10, v11, times the modulation: [eq:sample.1].
template <typename A>
__device__ __forceinline__ void corner_weights(A ly, A lx, A modulation, A weight[4]) {
    const A hx = A(1) - lx, hy = (A(1) - ly) * modulation, my = ly * modulation;
    weight[0] = hy * hx;
    weight[1] = hy * lx;
    weight[2] = my * hx;
    weight[3] = my * lx;
}
template <typename A>
__device__ __forceinline__ void corner_weights(const Cell<A>& cell, A modulation, A weight[4]) {
    corner_weights(cell.ly, cell.lx, modulation, weight);
}

// Gradients of a sample's y, x and modulation from the four numbers <corner, arriving gradient>; a corner outside the
// image has a 0 there: [eq:sample.3]. At a lattice line these are the slopes of the cell to the right of it.
template <typename A>
struct SampleGradient {
    A y, x, modulation;
};
template <typename A>
__device__ __forceinline__ SampleGradient<A> sample_gradient(const Cell<A>& cell, const A dot[4], A modulation) {
    const A hx = A(1) - cell.lx, hy = A(1) - cell.ly;
    const A left = dot[2] - dot[0], right = dot[3] - dot[1];
    SampleGradient<A> gradient;
    gradient.y = modulation * (hx * left + cell.lx * right);
    gradient.x = modulation * (hy * (dot[1] - dot[0]) + cell.ly * (dot[3] - dot[2]));
    gradient.modulation = hx * (dot[0] + cell.ly * left) + cell.lx * (dot[1] + cell.ly * right);
    return gradient;
}

// One channel of a channels-last image at a sample: sum of weight * corner over the corners that exist. A corner that
// does not is left out rather than multiplied by 0: the memory there may hold a NaN.
//   image: the channel's value at pixel 0; step: elements from one pixel to the next
template <typename T, typename A>
__device__ __forceinline__ A sample_channel(const T* image, long long step, const Cell<A>& cell, const A weight[4],
                                            int height, int width) {
    if (cell.sample == NOWHERE) return A(0);
    if (cell.sample == BROKEN) return not_a_number<A>();
    A value = A(0);
    for (int corner = 0; corner < 4; ++corner)
        if (cell.has(corner, height, width))
            value += weight[corner] * load<A>(image[cell.pixel(corner, width) * step]);
    return value;
}
