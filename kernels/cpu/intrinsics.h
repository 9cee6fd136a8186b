// The arithmetic names of device code.
#pragma once

#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "types.h"

template <typename T> static inline T __ldg(const T* address) { return *address; }
template <typename T> static inline T __ldcg(const T* address) { return *address; }
template <typename T> static inline T __ldcs(const T* address) { return *address; }
template <typename T> static inline void __stcs(T* address, T value) { *address = value; }

#define DCNLAB_MIN_MAX(T)                                            \
    static inline T min(T a, T b) { return b < a ? b : a; }          \
    static inline T max(T a, T b) { return a < b ? b : a; }
DCNLAB_MIN_MAX(int)
DCNLAB_MIN_MAX(unsigned)
DCNLAB_MIN_MAX(long)
DCNLAB_MIN_MAX(unsigned long)
DCNLAB_MIN_MAX(long long)
DCNLAB_MIN_MAX(unsigned long long)
#undef DCNLAB_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// The float overloads that CUDA has in the global namespace.
using std::abs;
using std::ceil;
using std::cos;
using std::exp;
using std::floor;
using std::fma;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::log;
using std::pow;
using std::rint;
using std::sin;
using std::sqrt;
using std::tanh;
using std::trunc;

static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __saturatef(float a) { return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f; }
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)

// Conversions saturate, and a NaN becomes 0, as the hardware's do.
static inline int dcnlab_to_int(double x) {
    return x != x ? 0 : x >= 2147483647.0 ? 2147483647 : x <= -2147483648.0 ? -2147483647 - 1 : int(x);
}
static inline int __float2int_rd(float x) { return dcnlab_to_int(std::floor(x)); }
static inline int __float2int_ru(float x) { return dcnlab_to_int(std::ceil(x)); }
static inline int __float2int_rn(float x) { return dcnlab_to_int(std::rint(x)); }
static inline int __float2int_rz(float x) { return dcnlab_to_int(x); }
static inline float __int2float_rn(int x) { return float(x); }
static inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
static inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
static inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
static inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
static inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

static inline int __popc(unsigned x) { return std::popcount(x); }
static inline int __popcll(unsigned long long x) { return std::popcount(x); }
static inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= ((x >> bit) & 1u) << (31 - bit);
    return reversed;
}
static inline int __mul24(int a, int b) { return a * b; }
static inline int __umulhi(unsigned a, unsigned b) { return int((uint64_t(a) * b) >> 32); }
static inline long long clock64() { return 0; }
