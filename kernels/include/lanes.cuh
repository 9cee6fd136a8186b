// Lanes: a run of neighbouring channels, worked on together.
//
// On a CPU they are one vector register (GCC's and Clang's vector types); on a GPU, and where every single access is
// checked, an array and loops. Both do the same arithmetic in the same order. A run may be shorter than WIDTH: the lanes
// beyond `count` are 0 when loaded, and not stored.
//   A: type of the arithmetic, T: type of the memory
#pragma once

#include "scattered.cuh"
#include "vectors.cuh"

#if defined(DCNLAB_CPU) && !defined(DCNLAB_CHECK)
#define DCNLAB_WIDE
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#include <utility>
#define DCNLAB_SHUFFLE
#endif
#endif
#endif

// Before a loop over an array of Lanes whose length is a constant: written out, each of them has a register of its own.
#if defined(DCNLAB_WIDE) && !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL _Pragma("unroll")
#endif

template <typename T, typename A>
struct SameType { static constexpr bool value = false; };
template <typename T>
struct SameType<T, T> { static constexpr bool value = true; };

// In place of a count: all lanes, from an address where a Pack of them (vectors.cuh) may lie, and loaded like one.
struct Whole {};

template <typename A, int WIDTH>
struct Lanes {
#ifdef DCNLAB_WIDE
    typedef A Vector __attribute__((vector_size(WIDTH * sizeof(A))));
    typedef A Unaligned __attribute__((vector_size(WIDTH * sizeof(A)), aligned(alignof(A)), may_alias));
    Vector v = {};

    __device__ __forceinline__ Lanes operator+(const Lanes& b) const { return of(v + b.v); }
    __device__ __forceinline__ Lanes operator-(const Lanes& b) const { return of(v - b.v); }
    __device__ __forceinline__ Lanes operator*(const Lanes& b) const { return of(v * b.v); }
    __device__ __forceinline__ Lanes operator*(A factor) const { return of(v * factor); }
    __device__ __forceinline__ Lanes operator-(A b) const { return of(v - b); }
    static __device__ __forceinline__ Lanes of(Vector v) { Lanes lanes; lanes.v = v; return lanes; }
#else
    A v[WIDTH] = {};

    __device__ __forceinline__ Lanes operator+(const Lanes& b) const { return each(b, [](A x, A y) { return x + y; }); }
    __device__ __forceinline__ Lanes operator-(const Lanes& b) const { return each(b, [](A x, A y) { return x - y; }); }
    __device__ __forceinline__ Lanes operator*(const Lanes& b) const { return each(b, [](A x, A y) { return x * y; }); }
    __device__ __forceinline__ Lanes operator*(A f) const { return each(*this, [f](A x, A) { return x * f; }); }
    __device__ __forceinline__ Lanes operator-(A b) const { return each(*this, [b](A x, A) { return x - b; }); }
    template <typename F>
    __device__ __forceinline__ Lanes each(const Lanes& b, F f) const {
        Lanes result;
        for (int c = 0; c < WIDTH; ++c) result.v[c] = f(v[c], b.v[c]);
        return result;
    }
#endif

    static __device__ __forceinline__ Lanes filled(A value) {
        Lanes lanes;
        for (int c = 0; c < WIDTH; ++c) lanes.v[c] = value;
        return lanes;
    }
    template <typename T>
    static __device__ __forceinline__ Lanes load_from(const T* from, int count) {
        Lanes lanes;
#ifdef DCNLAB_WIDE
        if constexpr (SameType<T, A>::value)
            if (count >= WIDTH) return of(*reinterpret_cast<const Unaligned*>(from));
#endif
        for (int c = 0; c < WIDTH; ++c)
            if (c < count) lanes.v[c] = load<A>(from[c]);
        return lanes;
    }
    template <typename T>
    static __device__ __forceinline__ Lanes load_from(const T* from, Whole) {
#ifdef DCNLAB_WIDE
        return load_from(from, WIDTH);
#else
        Lanes lanes;
        load_pack<WIDTH>(from, lanes.v);
        return lanes;
#endif
    }
    template <typename T>
    __device__ __forceinline__ void store_to(T* to, int count) const {
#ifdef DCNLAB_WIDE
        if constexpr (SameType<T, A>::value) {
            if (count >= WIDTH) {
                *reinterpret_cast<Unaligned*>(to) = v;
                return;
            }
        }
#endif
        for (int c = 0; c < WIDTH; ++c)
            if (c < count) store(to + c, v[c]);
    }
    // These lanes, with 0 in place of those beyond `count`.
    __device__ __forceinline__ Lanes first(int count) const {
        Lanes lanes = *this;
        if (count < WIDTH)
            for (int c = 0; c < WIDTH; ++c)
                if (c >= count) lanes.v[c] = A(0);
        return lanes;
    }
    // Half of the lanes, from lane FIRST on.
    template <int FIRST>
    __device__ __forceinline__ Lanes<A, WIDTH / 2> half() const {
        Lanes<A, WIDTH / 2> result;
#ifdef DCNLAB_SHUFFLE
        result.v = shuffled<FIRST>(std::make_integer_sequence<int, WIDTH / 2>());
#elif defined(DCNLAB_WIDE)
        __builtin_memcpy(&result.v, reinterpret_cast<const char*>(&v) + FIRST * sizeof(A), sizeof result.v);
#else
        for (int c = 0; c < WIDTH / 2; ++c) result.v[c] = v[FIRST + c];
#endif
        return result;
    }
#ifdef DCNLAB_SHUFFLE
    // Without taking the address of v, which would then be in memory rather than in a register all the time.
    template <int FIRST, int... I>
    __device__ __forceinline__ auto shuffled(std::integer_sequence<int, I...>) const {
        return __builtin_shufflevector(v, v, (FIRST + I)...);
    }
#endif
    // Every lane is added to an array that nobody reads meanwhile.
    __device__ __forceinline__ void add_to(Scattered<A> to, int count) const {
#ifdef DCNLAB_WIDE
        if (count >= WIDTH) {
            Unaligned* sums = reinterpret_cast<Unaligned*>(to.sums());
            *sums += v;
            return;
        }
#endif
        for (int c = 0; c < WIDTH; ++c)
            if (c < count) atomicAdd(to + c, v[c]);
    }
    // The sum of all lanes, halves first: few steps that wait for each other.
    __device__ __forceinline__ A total() const {
        if constexpr (WIDTH == 2) {
            return v[0] + v[1];
        } else {
            return (half<0>() + half<WIDTH / 2>()).total();
        }
    }
};

// work(c, count) for the channels c .. c + count, WIDTH of them at a time and what is left at the end. In all calls but
// the last, `count` is a constant: no question is asked for each load.
template <int WIDTH, typename Work>
__device__ __forceinline__ void by_lanes(int channels, const Work& work) {
    int c = 0;
    for (; c + WIDTH <= channels; c += WIDTH) work(c, WIDTH);
    if (c < channels) work(c, channels - c);
}
