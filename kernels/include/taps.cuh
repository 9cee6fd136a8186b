// The taps of one output pixel and group, several at a time.
#pragma once

#include "channels.cuh"

// Taps worked out together: on a CPU the loop becomes vector instructions. A GPU takes them one by one: nine would need
// so many registers that few threads are left to work while others wait, and with double more than there are.
#ifndef TAPS_TOGETHER
#ifdef DCNLAB_CPU
#define TAPS_TOGETHER 9
#else
#define TAPS_TOGETHER 1
#endif
#endif
constexpr int TOGETHER = TAPS_TOGETHER;

// Taps first .. first + count of a row (DCNv3Row or DeformConv2dRow): where their cells lie, and the weights of the
// corners. Where position or modulation is not a number, modulation and weights are none either, and no corner exists.
template <typename A>
struct Taps {
    int row[TOGETHER], column[TOGETHER];  // of the pixel where the cell starts, in the image or not
    int pixel[TOGETHER];                  // its number, where the cell lies in the image as a whole
    A ly[TOGETHER], lx[TOGETHER], modulation[TOGETHER];
    A weight[4][TOGETHER];

    // Returns whether all these cells lie in the image as a whole, as most do.
    template <typename Row>
    __device__ __forceinline__ bool locate(const Row& at, int first, int count) {
        const A far = A(1 << 30);  // keeps floor() within an int
        const unsigned rows = unsigned(at.height - 1), columns = unsigned(at.width - 1);
        A shift_y[TOGETHER], shift_x[TOGETHER];
        if constexpr (!Row::NEIGHBOURS)  // read first what lies far apart, so that the loop below needs no scattered loads
            for (int i = 0; i < count; ++i) {
                modulation[i] = at.modulation(first + i);
                shift_y[i] = at.dy(first + i);
                shift_x[i] = at.dx(first + i);
            }
        int all = 1;
        for (int i = 0; i < count; ++i) {
            const int k = first + i;
            const A read = Row::NEIGHBOURS ? at.modulation(k) : modulation[i];
            A dy = Row::NEIGHBOURS ? at.dy(k) : shift_y[i], dx = Row::NEIGHBOURS ? at.dx(k) : shift_x[i];
            // Both looked at before either is replaced: one condition for the vector unit, and no branch.
            const bool is_near = (fabs(dy) < far) & (fabs(dx) < far), is_number = (dy == dy) & (dx == dx);
            const A m = is_number ? read : not_a_number<A>();
            dy = is_near ? dy : -far;
            dx = is_near ? dx : A(0);
            const A below = floor(dy), beside = floor(dx), y = dy - below, x = dx - beside;
            row[i] = at.base_y + at.taps[2 * k] + int(below);
            column[i] = at.base_x + at.taps[2 * k + 1] + int(beside);
            all &= (unsigned(row[i]) < rows) & (unsigned(column[i]) < columns);
            pixel[i] = int(unsigned(row[i]) * unsigned(at.width) + unsigned(column[i]));
            ly[i] = y;
            lx[i] = x;
            modulation[i] = m;
            const A hy = (A(1) - y) * m, my = y * m, hx = A(1) - x;
            weight[0][i] = hy * hx;
            weight[1][i] = hy * x;
            weight[2][i] = my * hx;
            weight[3][i] = my * x;
        }
        return all;
    }
    // Which corners of cell i exist, a bit each.
    __device__ __forceinline__ int there(int i, int height, int width) const {
        return existing_corners(row[i], column[i], ly[i], lx[i], height, width);
    }
    __device__ __forceinline__ void weights_of(int i, A result[4]) const {
        for (int corner = 0; corner < 4; ++corner) result[corner] = weight[corner][i];
    }
};

// sum += tap i, `count` channels from `image` on. there: the corners that exist, ALL of them or tap.there().
template <int WIDTH, typename T, typename A>
__device__ __forceinline__ void add_tap(Lanes<A, WIDTH>& sum, const Taps<A>& tap, int i, int there, const T* image,
                                        int width, long long step, int count) {
    A weight[4];
    tap.weights_of(i, weight);
    sum = sum + sample_lanes<WIDTH>(image, corners_of(tap.pixel[i], width, step, there), weight, count);
}

// The gradients of tap i, and its share of the image's gradient.
template <int WIDTH, typename T, typename A>
__device__ __forceinline__ SampleGradient<A> tap_backward(const Taps<A>& tap, int i, int there, const T* arriving,
                                                          const T* image, Scattered<A> grad_image, int width,
                                                          long long step, int channels) {
    if (tap.modulation[i] != tap.modulation[i]) return broken_gradient<A>();
    A weight[4];
    tap.weights_of(i, weight);
    const auto backward = [&](int existing) {
        return sample_backward<WIDTH>(arriving, image, grad_image, corners_of(tap.pixel[i], width, step, existing),
                                      weight, tap.ly[i], tap.lx[i], tap.modulation[i], channels);
    };
    return there == ALL ? backward(ALL) : backward(there);  // most are ALL: code without a question to each corner
}
