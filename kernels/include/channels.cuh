// All channels of a sample: what every kernel with a channel loop inside does at a cell.
#pragma once

#include "lanes.cuh"

// Where the corners of a cell stand in memory. A corner outside the image is not there: it is left out rather than
// multiplied by 0, for the memory in its place may hold a NaN.
struct Corners {
    long long at[4];  // elements from the image's first: v00, v01, v10, v11
    int there;        // bit i: corner i exists

    __device__ __forceinline__ int has(int corner) const { return there >> corner & 1; }
};

constexpr int ALL = 15;

// The corners of the cell that starts at pixel `pixel` = row * width + column; those of `there` exist.
__device__ __forceinline__ Corners corners_of(long long pixel, int width, long long step, int there) {
    const long long at = pixel * step, below = at + width * step;
    return {{at, at + step, below, below + step}, there};
}

// `count` channels of a corner, or Whole(); zeros where it does not exist.
template <int WIDTH, typename A, typename T, typename Count>
__device__ __forceinline__ Lanes<A, WIDTH> corner_lanes(const T* image, const Corners& corners, int i, Count count) {
    return corners.has(i) ? Lanes<A, WIDTH>::load_from(image + corners.at[i], count) : Lanes<A, WIDTH>();
}

// The sample of `count` channels from `image` on, or Whole(), with the weights of its corners.
template <int WIDTH, typename T, typename A, typename Count>
__device__ __forceinline__ Lanes<A, WIDTH> sample_lanes(const T* image, const Corners& corners, const A weight[4],
                                                        Count count) {
    const Lanes<A, WIDTH> v00 = corner_lanes<WIDTH, A>(image, corners, 0, count);
    const Lanes<A, WIDTH> v01 = corner_lanes<WIDTH, A>(image, corners, 1, count);
    const Lanes<A, WIDTH> v10 = corner_lanes<WIDTH, A>(image, corners, 2, count);
    const Lanes<A, WIDTH> v11 = corner_lanes<WIDTH, A>(image, corners, 3, count);
    return v00 * weight[0] + v01 * weight[1] + v10 * weight[2] + v11 * weight[3];
}

// Gradients of a sample's y, x and modulation from what arrives at its channels, and their share of the image's gradient.
// At a lattice line the slopes are those of the cell to the right of it: [eq:sample.2].
template <int WIDTH, typename G, typename T, typename A>
__device__ __forceinline__ SampleGradient<A> sample_backward(const G* arriving, const T* image, Scattered<A> grad_image,
                                                             const Corners& corners, const A weight[4], A ly, A lx,
                                                             A modulation, int channels) {
    typedef Lanes<A, WIDTH> L;
    const A hy = A(1) - ly, hx = A(1) - lx;
    L along_y, along_x, value;
    for (int c = 0; c < channels; c += WIDTH) {
        const int count = channels - c;
        const L g = L::load_from(arriving + c, count);
        const L v00 = corner_lanes<WIDTH, A>(image + c, corners, 0, count);
        const L v01 = corner_lanes<WIDTH, A>(image + c, corners, 1, count);
        const L v10 = corner_lanes<WIDTH, A>(image + c, corners, 2, count);
        const L v11 = corner_lanes<WIDTH, A>(image + c, corners, 3, count);
        if (corners.has(0)) (g * weight[0]).add_to(grad_image + (corners.at[0] + c), count);
        if (corners.has(1)) (g * weight[1]).add_to(grad_image + (corners.at[1] + c), count);
        if (corners.has(2)) (g * weight[2]).add_to(grad_image + (corners.at[2] + c), count);
        if (corners.has(3)) (g * weight[3]).add_to(grad_image + (corners.at[3] + c), count);
        const L left = v10 - v00, right = v11 - v01;
        along_y = along_y + g * (left * hx + right * lx);
        along_x = along_x + g * ((v01 - v00) * hy + (v11 - v10) * ly);
        value = value + g * ((v00 + left * ly) * hx + (v01 + right * ly) * lx);
    }
    return {modulation * along_y.total(), modulation * along_x.total(), value.total()};
}

// The same where it is not a number.
template <typename A>
__device__ __forceinline__ SampleGradient<A> broken_gradient() {
    return {not_a_number<A>(), not_a_number<A>(), not_a_number<A>()};
}
