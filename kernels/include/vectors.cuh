// Neighbouring values as one load or store of up to 16 bytes, the widest that a GPU has; more values are several. The
// address must be a multiple of their size, or of 16 bytes if that is less.
//   T: type of the memory, A: type of the arithmetic
#pragma once

#include "bilinear.cuh"

template <typename T, int WIDTH>
struct __align__(WIDTH * sizeof(T) < 16 ? WIDTH * sizeof(T) : 16) Pack {
    T v[WIDTH];
};

template <typename T>
constexpr int WIDEST = 16 / int(sizeof(T));

// The pack of 16 bytes that lies `number` packs behind the first, or zeros where it does not exist. Chosen as four words: a
// GPU has no registers of 16 bits, and would choose half by half.
template <typename T>
__device__ __forceinline__ Pack<T, WIDEST<T>> pack_or_zeros(const T* first, int number, bool exists) {
    const uint4 words = exists ? reinterpret_cast<const uint4*>(first)[number] : make_uint4(0, 0, 0, 0);
    Pack<T, WIDEST<T>> pack;
    memcpy(&pack, &words, sizeof pack);
    return pack;
}

template <int WIDTH, typename T, typename A>
__device__ __forceinline__ void load_pack(const T* from, A values[WIDTH]) {
    const Pack<T, WIDTH> pack = *reinterpret_cast<const Pack<T, WIDTH>*>(from);
    for (int c = 0; c < WIDTH; ++c) values[c] = load<A>(pack.v[c]);
}

template <int WIDTH, typename T, typename A>
__device__ __forceinline__ void store_pack(T* to, const A values[WIDTH]) {
    Pack<T, WIDTH> pack;
    for (int c = 0; c < WIDTH; ++c) store(pack.v + c, values[c]);
    *reinterpret_cast<Pack<T, WIDTH>*>(to) = pack;
}
