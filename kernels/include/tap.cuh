// One tap of a pixel and group, worked out without a branch: the threads of a warp stay together, whatever their taps do.
// (taps.cuh does it for several taps at once, for the vector unit of a CPU.)
#pragma once

#include "dcnv3.cuh"
#include "vectors.cuh"

template <typename A>
struct Tap {
    int pixel;     // number of the pixel where the cell starts, row * width + column; 0 where no corner exists
    int there;     // which corners exist, a bit each
    A ly, lx;      // fractions from there
    A modulation;  // NaN where the position or itself is none; 0 where no corner exists
};

// Tap k of a row. Its modulation is the row's, or what a kernel makes of it.
template <typename Row, typename A>
__device__ __forceinline__ Tap<A> tap_at(const Row& at, int k, A modulation) {
    const A far = A(1 << 30), dy = at.dy(k), dx = at.dx(k);  // far: keeps floor() within an int
    const bool is_near = (fabs(dy) < far) & (fabs(dx) < far), is_number = (dy == dy) & (dx == dx);
    const A y = is_near ? dy : A(0), x = is_near ? dx : A(0), below = floor(y), beside = floor(x);
    const int row = at.base_y + at.taps[2 * k] + int(below), column = at.base_x + at.taps[2 * k + 1] + int(beside);
    Tap<A> tap;
    tap.ly = y - below;
    tap.lx = x - beside;
    tap.there = is_near ? existing_corners(row, column, tap.ly, tap.lx, at.height, at.width) : 0;
    tap.pixel = tap.there ? int(unsigned(row) * unsigned(at.width) + unsigned(column)) : 0;
    const A m = is_number ? modulation : not_a_number<A>();
    tap.modulation = (tap.there != 0) | (m != m) ? m : A(0);
    return tap;
}

// The channels of one corner of a cell; zeros where it does not exist. Selected, not multiplied by 0: the memory in its
// place may hold a NaN.
//   image: the channels of pixel 0; channels: from one pixel to the next
template <typename Channels, typename T>
__device__ __forceinline__ Channels corner_pack(const T* image, int pixel, int there, int corner, int width, int channels) {
    const int at = pixel + corner / 2 * width + corner % 2;
    return there >> corner & 1 ? *reinterpret_cast<const Channels*>(image + (long long)at * channels) : Channels{};
}

// sum += the tap's sample of WIDTH channels, with the weights of its corners.
template <int WIDTH, typename T, typename A>
__device__ __forceinline__ void add_corners(A sum[WIDTH], const T* image, int pixel, int there, const A weight[4],
                                            int width, int channels) {
    for (int corner = 0; corner < 4; ++corner) {
        const auto values = corner_pack<Pack<T, WIDTH>>(image, pixel, there, corner, width, channels);
        for (int c = 0; c < WIDTH; ++c) sum[c] += weight[corner] * load<A>(values.v[c]);
    }
}
