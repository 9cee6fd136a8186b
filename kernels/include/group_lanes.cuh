// A group's channels spread over neighbouring lanes of a warp: what kernels with several threads a group share.
//
// Every lane has WIDTH channels, which it loads at once; a group has as many lanes as hold it, rounded up to a power of two.
// WIDTH divides the group's width: a lane has all of its channels or, behind the last one, none. Then it adds zeros.
#pragma once

#include "channels.cuh"
#include "dcnv3.cuh"
#include "vectors.cuh"
#include "warp.cuh"

// Lanes of a group: the power of two that holds its channels, at most 32.
template <int WIDTH>
__device__ __forceinline__ unsigned lanes_of(int group_width) {
    return 1u << (32 - __clz(group_width / WIDTH - 1));
}

// Which lane of which row (pixel, group) a thread is.
//   thread: number of the thread among rows * lanes; those behind the last row go along with it, without channels
template <int WIDTH>
struct RowLane {
    unsigned lanes, row;
    int channel;  // its first, in the group
    bool has_channels, is_first;

    __device__ __forceinline__ RowLane(unsigned thread, unsigned rows, int group_width) {
        lanes = lanes_of<WIDTH>(group_width);
        const bool spare = thread / lanes >= rows;
        row = spare ? rows - 1 : thread / lanes;
        channel = int(thread % lanes) * WIDTH;
        has_channels = !spare && channel < group_width;
        is_first = !spare && channel == 0;
    }
};

// The gradients of a row of taps, written to its place in grad_offset and grad_mask by the first lane.
//   image: the lane's channels of pixel 0 of the input; number: that of the row, all images counted through
//   scatter(cell, corner, values): takes the share of the image's gradient that the corner's channels get
template <int WIDTH, typename T, typename A, typename Scatter>
__device__ __forceinline__ void row_backward(const RowLane<WIDTH>& lane, const DCNv3Row<T, A>& row,
                                             const DCNv3Shape& shape, const T* grad_output, const T* image,
                                             long long number, T* grad_offset, T* grad_mask, const Scatter& scatter) {
    const long long step = shape.channels(), first = number * shape.taps;
    A g[WIDTH] = {};
    if (lane.has_channels) load_pack<WIDTH>(grad_output + (number * shape.group_width + lane.channel), g);
    for (int k = 0; k < shape.taps; ++k) {
        const A m = row.modulation(k);
        const Cell<A> cell = row.cell(k);
        const bool touches = cell.sample == INSIDE || cell.sample == BORDER;
        A weight[4], dot[4];
        corner_weights(cell, m, weight);
        for (int corner = 0; corner < 4; ++corner) {
            dot[corner] = A(0);
            if (!lane.has_channels || !touches || !cell.has(corner, row.height, row.width)) continue;
            A pixel[WIDTH], share[WIDTH];
            load_pack<WIDTH>(image + cell.pixel(corner, row.width) * step, pixel);
            for (int c = 0; c < WIDTH; ++c) {
                dot[corner] += g[c] * pixel[c];
                share[c] = g[c] * weight[corner];
            }
            scatter(cell, corner, share);
        }
        for (int corner = 0; corner < 4; ++corner) dot[corner] = lane_sum(dot[corner], lane.lanes);
        if (!lane.is_first) continue;
        SampleGradient<A> gradient = {A(0), A(0), A(0)};
        if (touches) gradient = sample_gradient(cell, dot, m);
        if (cell.sample == BROKEN) gradient = broken_gradient<A>();
        store(grad_offset + 2 * (first + k), row.scale * gradient.x);
        store(grad_offset + 2 * (first + k) + 1, row.scale * gradient.y);
        store(grad_mask + first + k, gradient.modulation);
    }
}
