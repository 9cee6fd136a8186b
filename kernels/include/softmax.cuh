// Softmax over the taps: what its own kernels, and those that take it along with the samples, share.
#pragma once

#include "exponential.cuh"

// The taps of a 3x3 kernel. With the constant in their place, the loops over a row are written out: a third faster on a CPU.
constexpr int USUAL = 9;

// to = exp(z - max z) for each of `count` rows of `taps` logits z. The largest power is 1: nothing overflows, and no sum
// of them is 0. A row with a NaN or with the infinity becomes NaN.
template <typename T, typename A>
__device__ __forceinline__ void powers_of_rows(const T* __restrict__ from, A* __restrict__ to, int count, int taps) {
    for (int r = 0; r < count; ++r) {
        const T* row = from + (long long)r * taps;
        A largest = load<A>(row[0]);
        for (int k = 1; k < taps; ++k) {
            const A z = load<A>(row[k]);
            largest = z > largest ? z : largest;
        }
        A* powers = to + (long long)r * taps;
        for (int k = 0; k < taps; ++k) powers[k] = load<A>(row[k]) - largest;
    }
    const long long all = (long long)count * taps;
    for (long long i = 0; i < all; ++i) to[i] = exp_below_0(to[i]);
}

// to = the softmax of each of `count` rows of `taps` logits: [eq:softmax.1].
template <typename T, typename A>
__device__ __forceinline__ void softmax_of_rows(const T* __restrict__ from, A* __restrict__ to, int count, int taps) {
    powers_of_rows(from, to, count, taps);
    for (int r = 0; r < count; ++r, to += taps) {
        A sum = A(0);
        for (int k = 0; k < taps; ++k) sum += to[k];
        const A share = A(1) / sum;
        for (int k = 0; k < taps; ++k) to[k] *= share;
    }
}
