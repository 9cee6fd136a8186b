// Sums over neighbouring lanes of a warp.
#pragma once

constexpr unsigned WHOLE_WARP = 0xffffffffu;

// The sum over `lanes` neighbouring lanes, the same in all of them. Halves first, so that no order of threads shows in it.
// All lanes of the warp take part, also those that have nothing to add.
template <typename A>
__device__ __forceinline__ A lane_sum(A value, unsigned lanes) {
    for (int step = int(lanes) / 2; step > 0; step /= 2) value += __shfl_xor_sync(WHOLE_WARP, value, step);
    return value;
}
