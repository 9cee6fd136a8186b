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
    by_lanes<WIDTH>(channels, [&](int c, int count) { sum = sum + L::load_from(row + c, count); });
    const A mean = sum.total() / A(channels);
    by_lanes<WIDTH>(channels, [&](int c, int count) {
        const L away = (L::load_from(row + c, count) - mean).first(count);
        squares = squares + away * away;
    });
    return {mean, A(1) / sqrt(squares.total() / A(channels) + eps)};
}
