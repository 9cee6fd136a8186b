// exp(y) for y <= 0, in arithmetic that a compiler can turn into vector instructions: no call, no branch, no table.
#pragma once

#include "bilinear.cuh"

// float: exp(y) = 2^n exp(r) with n = the integer nearest to y / ln 2, so that |r| <= ln(2) / 2, and
// exp(r) = 1 + r + r^2 q(r). q has degree 4: least squares at 2000 Chebyshev points of r, weighted anew until the largest
// relative error of exp(r) was as small as it gets (Lawson's iteration), 3e-9. In float the result is within 2 units in
// the last place. Below -104 it is 0 (as the exact value rounds to); NaN stays NaN.
__device__ __forceinline__ float exp_below_0(float y) {
    const float bounded = y > -104.0f ? y : -104.0f;  // a NaN, too: no integer could hold it
    const float n = rintf(bounded * 1.44269504f);
    const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, n times the first is exact
    float q = 1.3813144e-3f;
    q = q * r + 8.3694188e-3f;
    q = q * r + 4.1668456e-2f;
    q = q * r + 0.16666515f;
    q = q * r + 0.49999994f;
    const float power = r * r * q + r + 1.0f;
    // In two factors: 2^n alone may be too small for a normal number.
    const int whole = int(n), part = whole / 2;
    const float scaled = power * __int_as_float((part + 127) << 23) * __int_as_float((whole - part + 127) << 23);
    return y == y ? scaled : y;
}

__device__ __forceinline__ double exp_below_0(double y) { return exp(y); }
