// The taps of one output pixel and group, several at a time.
#pragma once

#include "channels.cuh"

// Taps worked out together: on a CPU the loop becomes vector instructions. Most cells lie in the image as a whole; the
// others, and what is not a number, are left to the row's cell(), one at a time.
constexpr int TOGETHER = 9;

template <typename A>
struct Taps {
    int whole[TOGETHER];
    int pixel[TOGETHER];  // row * width + column of the cell, where it is whole
    A ly[TOGETHER], lx[TOGETHER], modulation[TOGETHER];
    A weight[4][TOGETHER];

    // Taps first .. first + count of a row: DCNv3Row or DeformConv2dRow.
    template <typename Row>
    __device__ __forceinline__ void locate_whole(const Row& row, int first, int count) {
        const A far = A(1 << 30);  // keeps floor() within an int; a NaN becomes -far
        const unsigned rows = unsigned(row.height - 1), columns = unsigned(row.width - 1);
        A shift_y[TOGETHER], shift_x[TOGETHER];
        if constexpr (!Row::NEIGHBOURS)  // read first what lies far apart, so that the loop below needs no scattered loads
            for (int i = 0; i < count; ++i) {
                modulation[i] = row.modulation(first + i);
                shift_y[i] = row.dy(first + i);
                shift_x[i] = row.dx(first + i);
            }
        for (int i = 0; i < count; ++i) {
            const int k = first + i;
            const A m = Row::NEIGHBOURS ? row.modulation(k) : modulation[i];
            A dy = Row::NEIGHBOURS ? row.dy(k) : shift_y[i], dx = Row::NEIGHBOURS ? row.dx(k) : shift_x[i];
            modulation[i] = m;
            dy = dy > -far ? dy : -far;
            dx = dx > -far ? dx : -far;
            dy = dy < far ? dy : far;
            dx = dx < far ? dx : far;
            const A below = floor(dy), beside = floor(dx);
            const int y = row.base_y + row.taps[2 * k] + int(below), x = row.base_x + row.taps[2 * k + 1] + int(beside);
            whole[i] = (unsigned(y) < rows) & (unsigned(x) < columns) & (m == m);
            pixel[i] = int(unsigned(y) * unsigned(row.width) + unsigned(x));
            ly[i] = dy - below;
            lx[i] = dx - beside;
            const A hy = (A(1) - ly[i]) * m, my = ly[i] * m, hx = A(1) - lx[i];
            weight[0][i] = hy * hx;
            weight[1][i] = hy * lx[i];
            weight[2][i] = my * hx;
            weight[3][i] = my * lx[i];
        }
    }
    __device__ __forceinline__ void weights_of(int i, A result[4]) const {
        for (int corner = 0; corner < 4; ++corner) result[corner] = weight[corner][i];
    }
};

// sum += tap first + i of a row, `count` channels from `image` on.
template <int WIDTH, typename Row, typename T, typename A>
__device__ __forceinline__ void add_tap(Lanes<A, WIDTH>& sum, const Row& row, const Taps<A>& tap, int first, int i,
                                        const T* image, long long step, int count) {
    A weight[4];
    if (tap.whole[i]) {
        tap.weights_of(i, weight);
        sum = sum + sample_lanes<WIDTH>(image, whole_cell(tap.pixel[i], row.width, step), weight, count);
        return;
    }
    const Cell<A> cell = row.cell(first + i);
    if (cell.sample == BROKEN) sum = sum + Lanes<A, WIDTH>::filled(not_a_number<A>());
    corner_weights(cell, tap.modulation[i], weight);
    sum = sum + sample_lanes<WIDTH>(image, corners_of(cell, row.height, row.width, step), weight, count);
}

// The gradients of tap first + i of a row, and its share of the image's gradient.
template <int WIDTH, typename Row, typename T, typename A>
__device__ __forceinline__ SampleGradient<A> tap_backward(const Row& row, const Taps<A>& tap, int first, int i,
                                                          const T* arriving, const T* image, Scattered<A> grad_image,
                                                          long long step, int channels) {
    const A m = tap.modulation[i];
    A weight[4];
    if (tap.whole[i]) {
        tap.weights_of(i, weight);
        return sample_backward<WIDTH>(arriving, image, grad_image, whole_cell(tap.pixel[i], row.width, step), weight,
                                      tap.ly[i], tap.lx[i], m, channels);
    }
    const Cell<A> cell = row.cell(first + i);
    if (cell.sample == BROKEN) return broken_gradient<A>();
    corner_weights(cell, m, weight);
    return sample_backward<WIDTH>(arriving, image, grad_image, corners_of(cell, row.height, row.width, step), weight,
                                  cell.ly, cell.lx, m, channels);
}
