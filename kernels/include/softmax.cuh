// What the forward and the backward pass of softmax begin with.
#pragma once

#include "exponential.cuh"

// to = exp(z - max z) for each of `count` rows of `taps` logits z. The largest power is 1: nothing overflows, and no sum
// of them is 0. A row with a NaN or with the infinity becomes NaN.
template <typename T, typename A>
__device__ __forceinline__ void powers_of_rows(const T* __restrict__ from, A* __restrict__ to, int count, int taps) {
    for (int r = 0; r < count; ++r) {
        const T* row = from + r * taps;
        A largest = load<A>(row[0]);
        for (int k = 1; k < taps; ++k) {
            const A z = load<A>(row[k]);
            largest = z > largest ? z : largest;
        }
        for (int k = 0; k < taps; ++k) to[r * taps + k] = load<A>(row[k]) - largest;
    }
    const int all = count * taps;
    for (int i = 0; i < all; ++i) to[i] = exp_below_0(to[i]);
}
