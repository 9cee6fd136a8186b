// Mean and scale of a row of channels, as layer normalisation takes them out.
#pragma once

#include "lanes.cuh"

template <typename A>
struct RowStatistics {
    A mean, per_scale;  // per_scale = 1 / sqrt(variance + eps)
};

// In two passes: the mean first, then the squares of what is left. Sums of squares of the row itself would lose the
// variance of a row that is far from 0.
template <int WIDTH, typename A, typename T>
__device__ __forceinline__ RowStatistics<A> row_statistics(const T* row, int channels, A eps) {
    typedef Lanes<A, WIDTH> L;
    L sum, squares;
    for (int c = 0; c < channels; c += WIDTH) sum = sum + L::load_from(row + c, channels - c);
    const A mean = sum.total() / A(channels);
    for (int c = 0; c < channels; c += WIDTH) {
        const L away = (L::load_from(row + c, channels - c) - mean).first(channels - c);
        squares = squares + away * away;
    }
    return {mean, A(1) / sqrt(squares.total() / A(channels) + eps)};
}
