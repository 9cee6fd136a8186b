// What the threads of a block that work out taps share.
#pragma once

#include "softmax.cuh"
#include "tap.cuh"

// The modulation of all taps of a row: the mask or, if SOFTMAX, the softmax over the taps of what is in its place. A NaN
// among these makes all of them NaN.
template <int TAPS, bool SOFTMAX, typename T, typename A>
__device__ __forceinline__ void row_modulation(const DCNv3Row<T, A>& at, A modulation[TAPS]) {
    if constexpr (SOFTMAX) {
        softmax_of_rows(at.mask, modulation, 1, TAPS);
    } else {
        for (int k = 0; k < TAPS; ++k) modulation[k] = at.modulation(k);
    }
}

// make(r, k, tap) for the USUAL taps k of each of `rows` rows r of image n, from row `first` on. A thread, a row: the block
// has at least as many.
template <bool SOFTMAX, typename T, typename A, typename Make>
__device__ __forceinline__ void make_records(const DCNv3Shape& shape, const T* offset, const T* mask, const int* taps,
                                             const A* residual, int n, unsigned first, unsigned rows, const Make& make) {
    const unsigned r = threadIdx.x;
    if (r >= rows) return;
    const unsigned pixel = (first + r) / unsigned(shape.groups);
    const DCNv3Row<T, A> at(shape, offset, mask, taps, residual, (long long)n * shape.rows() + first + r, pixel);
    A modulation[USUAL];
    row_modulation<USUAL, SOFTMAX>(at, modulation);
#pragma unroll
    for (int k = 0; k < USUAL; ++k) make(r, k, tap_at(at, k, modulation[k]));
}
