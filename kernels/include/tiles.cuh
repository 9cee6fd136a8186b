// Tiles of a matrix product in shared memory, made of samples: what the fused rungs of deformable convolution share.
//
// A block multiplies tile `left` [depth, 64], transposed, by tile `right` [depth, 8 ROWS] and adds the product up over
// tile after tile. Of the sums, a thread has those of 4 neighbouring columns of `left` with ROWS neighbouring ones of
// `right`: 4 + ROWS values read from shared memory serve 4 ROWS multiplications.
#pragma once

#include "channels.cuh"
#include "deform_conv2d.cuh"

constexpr int THREADS = 128;
constexpr int DEPTH = 16;  // rows of a tile; the last one of a sum may have fewer
constexpr int LEFT = 64;   // columns of `left`: 16 threads have 4 each

// The rows are 4 longer than what is in them: values one below the other then lie in different banks of the memory.
template <typename A, int ROWS>
struct __align__(16) Tiles {
    A left[DEPTH][LEFT + 4], right[DEPTH][8 * ROWS + 4];
};

template <typename A, int ROWS>
struct Product {
    Lanes<A, 4> sum[ROWS];

    // The first of this thread's columns of `left`, and of `right`.
    static __device__ __forceinline__ int left() { return int(threadIdx.x) % 16 * 4; }
    static __device__ __forceinline__ int right() { return int(threadIdx.x) / 16 * ROWS; }

    __device__ __forceinline__ void add(const Tiles<A, ROWS>& tiles, int depth) {
        for (int d = 0; d < depth; ++d) {
            const Lanes<A, 4> four = Lanes<A, 4>::load_from(tiles.left[d] + left(), 4);
            UNROLL for (int r = 0; r < ROWS; ++r) sum[r] = sum[r] + four * tiles.right[d][right() + r];
        }
    }
};

// tile[d][j] = value(d, j) for d < depth, by all threads; neighbouring ones have neighbouring j.
template <int WIDTH, int PITCH, typename A, typename Value>
__device__ __forceinline__ void fill(A (&tile)[DEPTH][PITCH], int depth, const Value& value) {
    for (int i = int(threadIdx.x); i < depth * WIDTH; i += THREADS) tile[i / WIDTH][i % WIDTH] = value(i / WIDTH, i % WIDTH);
}

// Output pixel `number` of a batch, all images counted through: the last tile of an image goes on in the next one.
// The very last tile has pixels to spare, which are not there; their place is that of the first.
struct BatchPixel {
    bool there;
    long long image;
    unsigned pixel;

    __device__ __forceinline__ BatchPixel(const DeformConv2dShape& shape, long long number)
        : there(number < shape.batch * (long long)shape.pixels()), image(there ? number / shape.pixels() : 0),
          pixel(there ? unsigned(number % shape.pixels()) : 0) {}

    // Place in an array [batch, planes, out_height, out_width].
    __device__ __forceinline__ long long in_plane(const DeformConv2dShape& shape, int planes, int plane) const {
        return (image * planes + plane) * shape.pixels() + pixel;
    }
};

// One tap of a pixel of the batch, to be sampled in any channel of images [batch, height, width, channels]: corners that
// are places in the whole batch, and their weights. (Tap of tap.cuh is small enough for a record: a pixel of one image.)
// Outside the image no corner is there and the rest is 0; where position or modulation is not a number, no corner is
// there and the rest is none either.
template <typename A>
struct BatchTap {
    Corners corners;
    A ly, lx, modulation, weight[4];

    template <typename T>
    __device__ __forceinline__ BatchTap(const DeformConv2dShape& shape, const T* offset, const T* mask, const int* taps,
                                        const BatchPixel& at, int group, int k)
        : corners{{0, 0, 0, 0}, 0}, ly(0), lx(0), modulation(0), weight{A(0), A(0), A(0), A(0)} {
        if (!at.there) return;
        const DeformConv2dRow<T, A> row(shape, offset, mask, taps, at.image, group, at.pixel);
        const Cell<A> cell = row.cell(k);
        if (cell.sample == NOWHERE) return;
        modulation = cell.sample == BROKEN ? not_a_number<A>() : row.modulation(k);
        ly = cell.ly;
        lx = cell.lx;
        corner_weights(cell, modulation, weight);
        if (cell.sample == BROKEN) return;
        int there = 0;
        for (int i = 0; i < 4; ++i) there |= int(cell.has(i, shape.height, shape.width)) << i;
        const long long first = at.image * shape.height * shape.width;  // the image's first pixel
        corners = corners_of(first + cell.pixel(0, shape.width), shape.width, shape.channels, there);
    }

    // Up to 4 channels of the sample, from `image` on. PACKED: all 4 or none, at addresses that suit one load.
    template <bool PACKED, typename T>
    __device__ __forceinline__ Lanes<A, 4> sample(const T* image, int count) const {
        if constexpr (PACKED) {
            return count > 0 ? sample_lanes<4>(image, corners, weight, Whole()) : Lanes<A, 4>();
        } else {
            return sample_lanes<4>(image, corners, weight, count);
        }
    }
};
