// Runs of channels at a sample: what every kernel with a channel loop inside does with a cell.
#pragma once

#include "bilinear.cuh"
#include "scattered.cuh"

// sum[0..width) += the sample of `width` channels that lie next to each other, `step` elements from pixel to pixel.
template <typename T, typename A>
__device__ __forceinline__ void add_sample(A* sum, int width, const T* image, long long step, const Cell<A>& cell,
                                           const A weight[4], int image_height, int image_width) {
    if (cell.sample == INSIDE) {
        const T* v00 = image + cell.pixel(0, image_width) * step;
        const T *v01 = v00 + step, *v10 = v00 + image_width * step, *v11 = v10 + step;
        for (int c = 0; c < width; ++c)
            sum[c] += weight[0] * load<A>(v00[c]) + weight[1] * load<A>(v01[c]) + weight[2] * load<A>(v10[c]) +
                      weight[3] * load<A>(v11[c]);
    } else if (cell.sample == BORDER) {
        for (int corner = 0; corner < 4; ++corner) {
            if (!cell.has(corner, image_height, image_width)) continue;
            const T* v = image + cell.pixel(corner, image_width) * step;
            for (int c = 0; c < width; ++c) sum[c] += weight[corner] * load<A>(v[c]);
        }
    } else if (cell.sample == BROKEN) {
        for (int c = 0; c < width; ++c) sum[c] = not_a_number<A>();
    }
}

// One corner: returns <corner, g> and adds weight * g to the gradient of the image. Four partial sums, because a single
// one would be a chain of dependent additions.
template <typename T, typename A>
__device__ __forceinline__ A corner_backward(int width, const A* g, const T* corner, Scattered<A> grad, A weight) {
    A part[4] = {A(0), A(0), A(0), A(0)};
    for (int c = 0; c < width; ++c) part[c % 4] += g[c] * load<A>(corner[c]);
    for (int c = 0; c < width; ++c) atomicAdd(grad + c, weight * g[c]);
    return (part[0] + part[1]) + (part[2] + part[3]);
}

template <typename T, typename A, int WIDTH>
__device__ __forceinline__ void run_backward(int width, const T* arriving, const T* image, Scattered<A> grad_image,
                                             long long step, const Cell<A>& cell, const A weight[4], A dot[4],
                                             int image_height, int image_width) {
    A g[WIDTH];
    for (int c = 0; c < width; ++c) g[c] = load<A>(arriving[c]);
    for (int corner = 0; corner < 4; ++corner) {
        if (cell.sample == BORDER && !cell.has(corner, image_height, image_width)) continue;
        const long long at = cell.pixel(corner, image_width) * step;
        dot[corner] += corner_backward<T, A>(width, g, image + at, grad_image + at, weight[corner]);
    }
}

// dot[i] = <corner i, arriving gradient> over `channels` channels of a sample, and their share of the image's gradient.
// WIDTH channels at a time, called with a constant where all of them are there. WIDTH is a multiple of 4, or 1.
template <typename T, typename A, int WIDTH>
__device__ __forceinline__ void sample_backward(int channels, const T* arriving, const T* image,
                                                Scattered<A> grad_image, long long step, const Cell<A>& cell,
                                                const A weight[4], A dot[4], int image_height, int image_width) {
    if (cell.sample == BROKEN) dot[0] = not_a_number<A>();
    if (cell.sample == BROKEN || cell.sample == NOWHERE) return;
    for (int c = 0; c < channels; c += WIDTH) {
        const T *g = arriving + c, *x = image + c;
        const Scattered<A> grad = grad_image + c;
        if (channels - c >= WIDTH)
            run_backward<T, A, WIDTH>(WIDTH, g, x, grad, step, cell, weight, dot, image_height, image_width);
        else
            run_backward<T, A, WIDTH>(channels - c, g, x, grad, step, cell, weight, dot, image_height, image_width);
    }
}
