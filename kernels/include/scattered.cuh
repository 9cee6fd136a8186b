// Scattered<T>: an array that a kernel only ever adds to with atomicAdd.
//
// On a GPU it is a pointer like any other. The CPU's header has a class of that name: knowing that nobody reads the
// array while the kernel runs, the launcher gives every worker a copy of its own and adds the copies up in a fixed order.
#pragma once

#ifndef DCNLAB_CPU
template <typename T>
using Scattered = T*;
#endif

// Adds four values to neighbouring sums, from an address that is a multiple of 16 bytes on.
__device__ __forceinline__ void add_four(Scattered<float> to, const float values[4]) {
    const float4 four = make_float4(values[0], values[1], values[2], values[3]);
#if defined(DCNLAB_CPU)
    atomicAdd(to, four);
#elif __CUDA_ARCH__ >= 900
    atomicAdd(reinterpret_cast<float4*>(to), four);
#else
    for (int i = 0; i < 4; ++i) atomicAdd(to + i, values[i]);
#endif
}
