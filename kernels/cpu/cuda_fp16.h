// Half precision: 16 bits of storage, arithmetic rounded to half after every operation, as the GPU's is.
#pragma once

#include <bit>

#include "atomics.h"
#include "types.h"

namespace dcnlab_cpu {

#if defined(__FLT16_MANT_DIG__)
static inline float widen(uint16_t bits) { return float(std::bit_cast<_Float16>(bits)); }
static inline uint16_t narrow(float value) { return std::bit_cast<uint16_t>(_Float16(value)); }
static inline uint16_t narrow(double value) { return std::bit_cast<uint16_t>(_Float16(value)); }
#else
// Compilers without _Float16. Scaling by powers of two in float does the work; see IEEE 754, 3.4 for the layouts.
static inline float widen(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    const uint32_t shifted = rest << 13;
    if (rest >= 0x7c00u) return std::bit_cast<float>(sign | shifted | 0x70000000u | (rest > 0x7c00u ? 0x400000u : 0u));
    const float magnitude = std::bit_cast<float>(shifted) * 0x1p112f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}
static inline uint16_t narrow(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value), sign = (bits >> 16) & 0x8000u;
    const float magnitude = std::bit_cast<float>(bits & 0x7fffffffu);
    if (magnitude != magnitude) return uint16_t(sign | 0x7e00u);
    if (magnitude >= 65520.0f) return uint16_t(sign | 0x7c00u);
    if (magnitude < 0x1p-14f) return uint16_t(sign | uint32_t(__builtin_rintf(magnitude * 0x1p24f)));
    const uint32_t rounded = std::bit_cast<uint32_t>(magnitude) + 0xfffu + ((bits >> 13) & 1u);
    return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}
static inline uint16_t narrow(double value) { return narrow(float(value)); }
#endif

}  // namespace dcnlab_cpu

struct __half {
    uint16_t bits;
    __half() = default;
    __half(float value) : bits(::dcnlab_cpu::narrow(value)) {}
    __half(double value) : bits(::dcnlab_cpu::narrow(value)) {}
    __half(int value) : bits(::dcnlab_cpu::narrow(float(value))) {}
    operator float() const { return ::dcnlab_cpu::widen(bits); }
};
using half = __half;

struct alignas(4) __half2 {
    __half x, y;
};
using half2 = __half2;

template <> inline constexpr bool dcnlab_cpu::is_float<__half> = true;
template <> inline constexpr bool dcnlab_cpu::is_float<__half2> = true;

static inline __half __float2half(float x) { return __half(x); }
static inline __half __float2half_rn(float x) { return __half(x); }
static inline __half __double2half(double x) { return __half(x); }
static inline float __half2float(__half x) { return float(x); }
static inline __half __int2half_rn(int x) { return __half(x); }
static inline __half __ushort_as_half(unsigned short bits) {
    __half x;
    x.bits = bits;
    return x;
}
static inline unsigned short __half_as_ushort(__half x) { return x.bits; }

#define DCNLAB_HALF(OP, NAME)                                                                  \
    static inline __half operator OP(__half a, __half b) { return __half(float(a) OP float(b)); } \
    static inline __half& operator OP##=(__half& a, __half b) { return a = a OP b; }           \
    static inline __half NAME(__half a, __half b) { return a OP b; }                           \
    static inline __half2 operator OP(__half2 a, __half2 b) { return {a.x OP b.x, a.y OP b.y}; } \
    static inline __half2& operator OP##=(__half2& a, __half2 b) { return a = a OP b; }        \
    static inline __half2 NAME##2(__half2 a, __half2 b) { return a OP b; }
DCNLAB_HALF(+, __hadd)
DCNLAB_HALF(-, __hsub)
DCNLAB_HALF(*, __hmul)
DCNLAB_HALF(/, __hdiv)
#undef DCNLAB_HALF
static inline __half2 __h2div(__half2 a, __half2 b) { return a / b; }
static inline __half operator-(__half a) { return __ushort_as_half(a.bits ^ 0x8000u); }
static inline __half2 operator-(__half2 a) { return {-a.x, -a.y}; }
static inline __half __hneg(__half a) { return -a; }
static inline __half2 __hneg2(__half2 a) { return -a; }
// A product of two halves is exact in float; the sum is rounded to float and then to half.
static inline __half __hfma(__half a, __half b, __half c) { return __half(float(a) * float(b) + float(c)); }
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }
#define DCNLAB_HALF(OP, NAME)                                                               \
    static inline bool operator OP(__half a, __half b) { return float(a) OP float(b); }     \
    static inline bool NAME(__half a, __half b) { return a OP b; }
DCNLAB_HALF(==, __heq)
DCNLAB_HALF(!=, __hne)
DCNLAB_HALF(<, __hlt)
DCNLAB_HALF(<=, __hle)
DCNLAB_HALF(>, __hgt)
DCNLAB_HALF(>=, __hge)
#undef DCNLAB_HALF
static inline bool __hisnan(__half a) { return float(a) != float(a); }

static inline __half2 make_half2(__half x, __half y) { return {x, y}; }
static inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
static inline __half2 __half2half2(__half x) { return {x, x}; }
static inline __half __low2half(__half2 v) { return v.x; }
static inline __half __high2half(__half2 v) { return v.y; }
static inline __half2 __low2half2(__half2 v) { return {v.x, v.x}; }
static inline __half2 __high2half2(__half2 v) { return {v.y, v.y}; }
static inline float __low2float(__half2 v) { return float(v.x); }
static inline float __high2float(__half2 v) { return float(v.y); }
static inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
static inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
static inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
