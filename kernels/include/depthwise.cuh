// Shapes of depthwise convolution, channels last, and how its threads share the work.
//   input   [batch, height, width, channels]          output  [batch, out_height, out_width, channels]
//   weight  [kernel_height, kernel_width, channels]   a tap's weights of all channels lie together
#pragma once

#include "lanes.cuh"

struct DepthwiseShape {
    int batch, channels, height, width, out_height, out_width;
    int kernel_height, kernel_width, stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x;
};

// The share of one thread in an image of `width` pixels a row: a run of up to EACH pixels of one row, in up to WIDTH
// channels. Neighbouring threads have neighbouring channels.
template <int WIDTH, int EACH>
struct Run {
    int y, x, count;        // the run's row, its first pixel, how many it has
    int channel, channels;  // the first channel, how many
    bool exists;

    __device__ __forceinline__ Run(unsigned number, const DepthwiseShape& shape, int height, int width) {
        const unsigned parts = unsigned(shape.channels + WIDTH - 1) / WIDTH, runs = unsigned(width + EACH - 1) / EACH;
        const unsigned run = number / parts;
        channel = int(number % parts) * WIDTH;
        channels = shape.channels - channel;
        y = int(run / runs);
        x = int(run % runs) * EACH;
        count = width - x < EACH ? width - x : EACH;
        exists = y < height;
    }
    __device__ __forceinline__ bool whole() const { return count == EACH && channels >= WIDTH; }
};
