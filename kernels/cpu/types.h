// Qualifiers and vector types, with CUDA's sizes and alignments.
#pragma once

#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __managed__
#define __constant__ static
// One copy per worker thread, and so per running block. A block-scope thread_local is implicitly static.
#if defined(__clang__)
#define __shared__ thread_local
#else
#define __shared__ constinit thread_local  // without it, g++ guards arrays of __half against being initialised twice
#endif
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

#define DCNLAB_VECTOR1(T, NAME)  \
    struct NAME##1 { T x; };     \
    static inline NAME##1 make_##NAME##1(T x) { return {x}; }
#define DCNLAB_VECTOR2(T, NAME)                       \
    struct alignas(2 * sizeof(T)) NAME##2 { T x, y; }; \
    static inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }
#define DCNLAB_VECTOR3(T, NAME)        \
    struct NAME##3 { T x, y, z; };     \
    static inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }
#define DCNLAB_VECTOR4(T, NAME)                                                      \
    struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) NAME##4 { T x, y, z, w; }; \
    static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define DCNLAB_VECTORS(T, NAME) \
    DCNLAB_VECTOR1(T, NAME)     \
    DCNLAB_VECTOR2(T, NAME)     \
    DCNLAB_VECTOR3(T, NAME)     \
    DCNLAB_VECTOR4(T, NAME)

DCNLAB_VECTORS(signed char, char)
DCNLAB_VECTORS(unsigned char, uchar)
DCNLAB_VECTORS(short, short)
DCNLAB_VECTORS(unsigned short, ushort)
DCNLAB_VECTORS(int, int)
DCNLAB_VECTORS(unsigned, uint)
DCNLAB_VECTORS(long long, longlong)
DCNLAB_VECTORS(unsigned long long, ulonglong)
DCNLAB_VECTORS(float, float)
DCNLAB_VECTORS(double, double)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3() = default;
    constexpr dim3(unsigned a, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
