// All channels of a sample: what every kernel with a channel loop inside does at a cell.
#pragma once

#include "lanes.cuh"

// Where the corners of a cell stand in memory. A corner outside the image is not there: it is left out rather than
// multiplied by 0, for the memory in its place may hold a NaN.
struct Corners {
    long long at[4];  // elements from the image's first: v00, v01, v10, v11
    int there;        // bit i: corner i exists

    __device__ __forceinline__ bool has(int corner) const { return there >> corner & 1; }
};

// The corners of a cell that starts at pixel `pixel` = row * width + column and lies in the image as a whole.
__device__ __forceinline__ Corners whole_cell(long long pixel, int width, long long step) {
    const long long at = pixel * step, below = at + width * step;
    return {{at, at + step, below, below + step}, 15};
}

template <typename A>
__device__ __forceinline__ Corners corners_of(const Cell<A>& cell, int height, int width, long long step) {
    Corners corners = whole_cell((long long)cell.row * width + cell.column, width, step);
    corners.there = 0;
    if (cell.sample == INSIDE || cell.sample == BORDER)
        for (int i = 0; i < 4; ++i) corners.there |= int(cell.has(i, height, width)) << i;
    return corners;
}

// The sample of `count` channels from `image` on, with the weights of its corners.
template <int WIDTH, typename T, typename A>
__device__ __forceinline__ Lanes<A, WIDTH> sample_lanes(const T* image, const Corners& corners, const A weight[4],
                                                        int count) {
    Lanes<A, WIDTH> sample;
    for (int i = 0; i < 4; ++i)
        if (corners.has(i)) sample = sample + Lanes<A, WIDTH>::load_from(image + corners.at[i], count) * weight[i];
    return sample;
}

// Gradients of a sample's y, x and modulation from what arrives at its channels, and their share of the image's gradient.
// At a lattice line the slopes are those of the cell to the right of it.
template <int WIDTH, typename T, typename A>
__device__ __forceinline__ SampleGradient<A> sample_backward(const T* arriving, const T* image, Scattered<A> grad_image,
                                                             const Corners& corners, const A weight[4], A ly, A lx,
                                                             A modulation, int channels) {
    typedef Lanes<A, WIDTH> L;
    const A hy = A(1) - ly, hx = A(1) - lx;
    L along_y, along_x, value;
    for (int c = 0; c < channels; c += WIDTH) {
        const int count = channels - c;
        const L g = L::load_from(arriving + c, count);
        L v[4];
        for (int i = 0; i < 4; ++i) {
            if (!corners.has(i)) continue;
            v[i] = L::load_from(image + corners.at[i] + c, count);
            (g * weight[i]).add_to(grad_image + (corners.at[i] + c), count);
        }
        const L left = v[2] - v[0], right = v[3] - v[1];
        along_y = along_y + g * (left * hx + right * lx);
        along_x = along_x + g * ((v[1] - v[0]) * hy + (v[3] - v[2]) * ly);
        value = value + g * ((v[0] + left * ly) * hx + (v[1] + right * ly) * lx);
    }
    return {modulation * along_y.total(), modulation * along_x.total(), value.total()};
}

// The same where it is not a number.
template <typename A>
__device__ __forceinline__ SampleGradient<A> broken_gradient() {
    return {not_a_number<A>(), not_a_number<A>(), not_a_number<A>()};
}
