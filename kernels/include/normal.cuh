// The standard normal distribution: its density phi(x) = exp(-x^2 / 2) / sqrt(2 pi), and Phi(x), its integral up to x.
//
// Phi(-t) is a very small number for t > 0, and 1 - Phi(t) or 1 + erf(..) would leave nothing of its digits. So the tail is
// the one that is computed, as exp(-t^2 / 2) times a factor that falls slowly.
#pragma once

#include "exponential.cuh"

template <typename A>
struct Normal {
    A density, below;  // phi(x), Phi(x); for a NaN they are numbers, which the caller multiplies by x
};

// float: Phi(-t) = exp(-t^2 / 2) u p(v), u = 2.5 / (2.5 + t), v = 1 - 2 u. p has degree 9: fitted to
// erfcx(t / sqrt 2) / (2 u) for 0 <= t <= 14.5 (erfcx of scipy.special) at 4000 Chebyshev points of v, by least squares
// weighted anew until the largest relative error was as small as it gets (Lawson's iteration), 1.5e-8; 4e-8 with the
// coefficients rounded to float. For every float x, x Phi(x) is within 7 units in the last place of the exact value, and
// within 10 where Phi(x) is too small for a normal number (x < -13).
__device__ __forceinline__ Normal<float> normal(float x) {
    const float size = fabsf(x), t = size < 16.0f ? size : 16.0f;  // a NaN, too
    const float u = 2.5f / (t + 2.5f), v = 1.0f - 2.0f * u;
    float p = -6.29065499e-05f;
    p = p * v - 1.24345749e-04f;
    p = p * v + 2.73737714e-04f;
    p = p * v + 1.00931866e-03f;
    p = p * v - 6.40384411e-04f;
    p = p * v - 6.55440856e-03f;
    p = p * v + 3.69436593e-03f;
    p = p * v + 5.27947861e-02f;
    p = p * v - 1.73476806e-01f;
    p = p * v + 2.82662664e-01f;
    // The rounding error of t * t would be multiplied by the exponent: what is lost there is put back.
    const float square = t * t, lost = fmaf(t, t, -square);
    const float power = exp_below_0(-0.5f * square), corrected = power - power * (0.5f * lost);
    const float tail = corrected * (u * p);
    return {corrected * 0.39894228f, x > 0.0f ? 1.0f - tail : tail};
}

__device__ __forceinline__ Normal<double> normal(double x) {
    const double tail = 0.5 * erfc(fabs(x) * 0.70710678118654752);
    return {exp(-0.5 * x * x) * 0.39894228040143268, x > 0.0 ? 1.0 - tail : tail};
}
