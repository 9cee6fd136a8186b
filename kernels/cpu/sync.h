// Barriers, shuffles and votes. The default arguments take down the caller's file and line for the reports.
#pragma once

#include <atomic>

#include "control.h"

#define DCNLAB_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(DCNLAB_HERE) { ::dcnlab_cpu::block_barrier(0, nullptr, file, line); }
static inline int __syncthreads_count(int predicate, DCNLAB_HERE) {
    return ::dcnlab_cpu::block_barrier(predicate != 0, nullptr, file, line);
}
static inline int __syncthreads_or(int predicate, DCNLAB_HERE) {
    return ::dcnlab_cpu::block_barrier(predicate != 0, nullptr, file, line) != 0;
}
static inline int __syncthreads_and(int predicate, DCNLAB_HERE) {
    int threads = 0;
    return ::dcnlab_cpu::block_barrier(predicate != 0, &threads, file, line) == threads;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, DCNLAB_HERE) {
    ::dcnlab_cpu::warp_barrier(mask, file, line);
}

#if defined(DCNLAB_CHECK)
static inline void __threadfence() { ::dcnlab_cpu::watch_fence(); }
#else
static inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
#endif
static inline void __threadfence_system() { __threadfence(); }
// The threads of a block share one worker thread: only the compiler could reorder.
static inline void __threadfence_block() { std::atomic_signal_fence(std::memory_order_seq_cst); }

namespace dcnlab_cpu {

inline int lane() { return int(control.number & 31u); }

template <typename T>
static inline T shuffle(unsigned mask, T value, int source, const char* file, int line) {
    static_assert(sizeof(T) <= 16, "a shuffle moves up to 16 bytes");
    T result;
    exchange(mask, &value, &result, int(sizeof(T)), source, file, line);
    return result;
}

}  // namespace dcnlab_cpu

// In all four, lanes form segments of `width`; a source outside the own segment gives back the own value.
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, DCNLAB_HERE) {
    const int lane = ::dcnlab_cpu::lane(), segment = lane & ~(width - 1);
    return ::dcnlab_cpu::shuffle(mask, value, segment + (source & (width - 1)), file, line);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, DCNLAB_HERE) {
    const int lane = ::dcnlab_cpu::lane(), place = lane & (width - 1);
    return ::dcnlab_cpu::shuffle(mask, value, place < int(delta) ? lane : lane - int(delta), file, line);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, DCNLAB_HERE) {
    const int lane = ::dcnlab_cpu::lane(), place = lane & (width - 1);
    return ::dcnlab_cpu::shuffle(mask, value, place + int(delta) >= width ? lane : lane + int(delta), file, line);
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, DCNLAB_HERE) {
    const int lane = ::dcnlab_cpu::lane(), segment = lane & ~(width - 1), other = lane ^ bits;
    return ::dcnlab_cpu::shuffle(mask, value, other >= segment + width ? lane : other, file, line);
}

static inline unsigned __ballot_sync(unsigned mask, int predicate, DCNLAB_HERE) {
    return ::dcnlab_cpu::ballot(mask, predicate != 0, file, line);
}
static inline int __any_sync(unsigned mask, int predicate, DCNLAB_HERE) {
    return ::dcnlab_cpu::ballot(mask, predicate != 0, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, DCNLAB_HERE) {
    return ::dcnlab_cpu::ballot(mask, predicate == 0, file, line) == 0;
}
static inline unsigned __activemask() { return ::dcnlab_cpu::active_lanes(); }

// A failed device assertion stops the launch, not the process.
#include <cassert>
#undef assert
#define assert(condition) \
    ((condition) ? (void)0 : ::dcnlab_cpu::stop("assertion failed", #condition, __FILE__, __LINE__))
static inline void __trap(DCNLAB_HERE) { ::dcnlab_cpu::stop("trap", "the kernel called __trap()", file, line); }
