// Atomic functions, and sums that come out the same bit for bit however many threads run.
#pragma once

#include <bit>
#include <cstring>
#include <type_traits>

#include "control.h"

#if defined(DCNLAB_CHECK)
#define DCNLAB_WATCH(address, bytes, reads) \
    ::dcnlab_cpu::watch_atomic(address, int(bytes), reads, __builtin_return_address(0))
#define DCNLAB_ALONE true  // a checked launch has one worker
#else
#define DCNLAB_WATCH(address, bytes, reads) ((void)0)
#define DCNLAB_ALONE ::dcnlab_cpu::control.alone
#endif

namespace dcnlab_cpu {

template <size_t BYTES> struct Bits;
template <> struct Bits<2> { using type = uint16_t; };
template <> struct Bits<4> { using type = uint32_t; };
template <> struct Bits<8> { using type = uint64_t; };

// Replace *address by change(*address), relaxed as in CUDA; return the old value.
template <typename T, typename Change>
__attribute__((always_inline, no_sanitize("thread"))) static inline T replace(T* address, Change change) {
    if (DCNLAB_ALONE) {
        const T old = *address;
        *address = change(old);
        return old;
    }
#if !defined(DCNLAB_CHECK)
    using Word = typename Bits<sizeof(T)>::type;
    Word* word = reinterpret_cast<Word*>(address);
    Word seen = __atomic_load_n(word, __ATOMIC_RELAXED);
    for (;;) {
        const T old = std::bit_cast<T>(seen);
        const Word wanted = std::bit_cast<Word>(T(change(old)));
        if (__atomic_compare_exchange_n(word, &seen, wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return old;
    }
#endif
}

// Set while the library loads, by the very existence of a floating-point atomicAdd in it: the order of such sums
// shows in their last bits, so the runtime then runs the blocks in order on one worker.
static inline bool sums_floats = false;
template <typename T> struct SumsFloats { static inline const bool mark = sums_floats = true; };

template <typename T> inline constexpr bool is_float = std::is_floating_point_v<T> || std::is_same_v<T, float4>;

}  // namespace dcnlab_cpu

// An array that the kernel only ever adds to, in any order: `Scattered<float> grad_input` in place of
// `float* grad_input` (kernels/include/scattered.cuh makes it that pointer on a GPU). Blocks then may run on many
// workers, each adding into a copy of its own. It cannot be read, and its atomicAdd returns nothing.
template <typename T>
class Scattered {
    static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "sums are collected in float or double");

public:
    Scattered() = default;
    Scattered operator+(long long steps) const { Scattered moved; moved.at_ = at_ + steps; return moved; }
    __attribute__((always_inline, no_sanitize("thread"))) void add(T value) const { *at_ += value; }
    const void* address() const { return at_; }
    T* sums() const { return at_; }  // for adding several at once (kernels/include/lanes.cuh)

private:
    T* at_;
};

template <typename T>
DCNLAB_OWN void atomicAdd(Scattered<T> target, std::type_identity_t<T> value) {
    DCNLAB_WATCH(target.address(), sizeof(T), true);
    target.add(value);
}

// Four neighbouring sums at once, as the float4 of sm_90 and newer.
DCNLAB_OWN void atomicAdd(Scattered<float> target, float4 value) {
    DCNLAB_WATCH(target.address(), sizeof value, true);
    const float parts[4] = {value.x, value.y, value.z, value.w};
    for (int i = 0; i < 4; ++i) (target + i).add(parts[i]);
}

template <typename T>
DCNLAB_OWN T atomicAdd(T* address, std::type_identity_t<T> value) {
    if constexpr (::dcnlab_cpu::is_float<T>) (void)&::dcnlab_cpu::SumsFloats<T>::mark;
    DCNLAB_WATCH(address, sizeof(T), true);
    if constexpr (std::is_same_v<T, float4>) {  // CUDA: sm_90 and newer; four sums, each atomic by itself
        float* parts = reinterpret_cast<float*>(address);
        const auto plus = [](float v) { return [v](float old) { return old + v; }; };
        using ::dcnlab_cpu::replace;  // called from here alone: a function in between would be watched
        return {replace(parts, plus(value.x)), replace(parts + 1, plus(value.y)), replace(parts + 2, plus(value.z)),
                replace(parts + 3, plus(value.w))};
    } else {
        return ::dcnlab_cpu::replace(address, [=](T old) { return T(old + value); });
    }
}

#define DCNLAB_ATOMIC(NAME, NEW_VALUE)                                                    \
    template <typename T>                                                                 \
    DCNLAB_OWN T NAME(T* address, std::type_identity_t<T> value) {                        \
        [[maybe_unused]] constexpr bool reads = #NAME[6] != 'E'; /* atomicExch may be the first write */  \
        DCNLAB_WATCH(address, sizeof(T), reads);                                          \
        return ::dcnlab_cpu::replace(address, [=](T old) -> T { return T(NEW_VALUE); }); \
    }
DCNLAB_ATOMIC(atomicSub, old - value)
DCNLAB_ATOMIC(atomicMax, old < value ? value : old)
DCNLAB_ATOMIC(atomicMin, value < old ? value : old)
DCNLAB_ATOMIC(atomicExch, ((void)old, value))
DCNLAB_ATOMIC(atomicAnd, old & value)
DCNLAB_ATOMIC(atomicOr, old | value)
DCNLAB_ATOMIC(atomicXor, old ^ value)
DCNLAB_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
DCNLAB_ATOMIC(atomicDec, (old == 0 || old > value) ? value : old - 1)
#undef DCNLAB_ATOMIC

template <typename T>
DCNLAB_OWN T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
    DCNLAB_WATCH(address, sizeof(T), true);
    return ::dcnlab_cpu::replace(address, [=](T old) { return old == expected ? value : old; });
}
