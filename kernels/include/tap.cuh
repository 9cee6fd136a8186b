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
    const A y = is_near ? dy : -far, x = is_near ? dx : A(0), below = floor(y), beside = floor(x);
    const int row = at.base_y + at.taps[2 * k] + int(below), column = at.base_x + at.taps[2 * k + 1] + int(beside);
    Tap<A> tap;
    tap.ly = y - below;
    tap.lx = x - beside;
    tap.there = existing_corners(row, column, tap.ly, tap.lx, at.height, at.width);
    tap.pixel = tap.there ? int(unsigned(row) * unsigned(at.width) + unsigned(column)) : 0;
    const A m = is_number ? modulation : not_a_number<A>();
    tap.modulation = (tap.there != 0) | (m != m) ? m : A(0);
    return tap;
}

// An image in packs of 16 bytes, as a thread sees it that has one pack of every pixel. Counted in packs, places fit into 32
// bits; from there it is one multiplication to the address.
template <typename T>
struct Packs {
    const T* first;    // the thread's channels of pixel 0
    int right, below;  // packs to the next pixel, and to the next row

    // Corner i of the cell that starts `cell` packs from the first. One that does not exist is chosen to be zeros, not
    // multiplied by 0: the memory in its place may hold a NaN.
    __device__ __forceinline__ Pack<T, WIDEST<T>> corner(int cell, int there, int i) const {
        return pack_or_zeros(first, cell + i / 2 * below + i % 2 * right, there >> i & 1);
    }
};

// Image n, from channel `channel` on.
template <typename T>
__device__ __forceinline__ Packs<T> packs_of(const T* input, const DCNv3Shape& shape, int n, unsigned channel) {
    const int right = int(shape.channels() / WIDEST<T>);
    return {input + (long long)n * shape.height * shape.width * shape.channels() + channel, right, shape.width * right};
}

// sum += the tap's sample, with the weights of its corners.
template <typename T, typename A>
__device__ __forceinline__ void add_corners(A sum[WIDEST<T>], const Packs<T>& image, int cell, int there, const A weight[4]) {
    for (int i = 0; i < 4; ++i) {
        const auto values = image.corner(cell, there, i);
        for (int c = 0; c < WIDEST<T>; ++c) sum[c] += weight[i] * load<A>(values.v[c]);
    }
}
