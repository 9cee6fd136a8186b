// Random places, cheap enough that they do not hide what a probe measures: one multiplication and one addition each.
#pragma once

__device__ __forceinline__ unsigned first_state(unsigned stream) { return stream * 2654435761u + 12345u; }
__device__ __forceinline__ unsigned next_state(unsigned state) { return state * 1664525u + 1013904223u; }

// A number below `count`, a power of two up to 2^22; the low bits of such a generator are not random.
__device__ __forceinline__ unsigned draw(unsigned state, int count) { return state >> 10 & unsigned(count - 1); }
