// From a kernel to a function that Python can call: arguments arrive as a list of pointers, as cuLaunchKernel takes them.
#pragma once

#include <atomic>
#include <new>
#include <tuple>
#include <type_traits>
#include <utility>

#include "atomics.h"
#include "control.h"

namespace dcnlab_cpu {

template <typename P> inline constexpr unsigned char sum_bytes = 0;
template <typename T> inline constexpr unsigned char sum_bytes<Scattered<T>> = sizeof(T);

#if defined(DCNLAB_PLAIN)
constexpr bool plain = true;
#else
constexpr bool plain = false;
#endif

template <auto Function> struct Entry;

template <typename... P, void (*Function)(P...)>
struct Entry<Function> {
    using Tuple = std::tuple<std::remove_cv_t<P>...>;
    static constexpr unsigned char scattered[sizeof...(P) + 1] = {sum_bytes<std::remove_cv_t<P>>..., 0};
    static constexpr uint64_t sizes[sizeof...(P) + 1] = {sizeof(P)..., 0};

    template <size_t... I>
    static void bind_each(void* const* values, void* tuple, std::index_sequence<I...>) {
        new (tuple) Tuple(*static_cast<std::remove_cv_t<P>*>(values[I])...);
    }
    static void bind(void* const* values, void* tuple) {
        bind_each(values, tuple, std::index_sequence_for<P...>{});
    }
    // No thread ever waits for another: they need no places of their own to wait in, and no accounts of who does.
    static void run_loop(const Tuple& arguments) {
        const dim3 size = control.block_size;
        control.number = 0;
        control.watched = true;  // a crash from here on is the kernel's
        std::atomic_signal_fence(std::memory_order_seq_cst);
        for (unsigned z = 0; z < size.z; ++z)
            for (unsigned y = 0; y < size.y; ++y)
                for (unsigned x = 0; x < size.x; ++x, ++control.number) {
                    control.thread = {x, y, z};
                    std::apply(Function, arguments);
                }
        std::atomic_signal_fence(std::memory_order_seq_cst);
        control.watched = false;
    }
    // Runs on the stack of a fiber. The arguments are copied there first: what a kernel may touch is its own stack.
    __attribute__((no_sanitize("thread"))) static void run_threads(const void* tuple) {
        const Tuple arguments = *static_cast<const Tuple*>(tuple);
#if defined(DCNLAB_PLAIN)
        if (control.plain) return run_loop(arguments);
#endif
        while (next_thread()) {
            std::apply(Function, arguments);
            end_thread();
        }
    }
    static int launch(const Request* request, void* (*dynamic_shared)(), uint64_t dynamic_limit) {
        const Kernel kernel{sizeof...(P), sizeof(Tuple),  &bind, &run_threads, scattered, sums_floats,
                            plain, dynamic_shared, dynamic_limit};
        return ::dcnlab_cpu::launch(kernel, *request);
    }
};

}  // namespace dcnlab_cpu

// Written once for every kernel by dcnlab/launch/cpu.py, after the source. DCNLAB_DYNAMIC names its dynamic memory.
#define DCNLAB_EXPORT(NUMBER, ...)                                                                             \
    extern "C" __attribute__((visibility("default"))) int dcnlab_launch_##NUMBER(                             \
        const ::dcnlab_cpu::Request* request) {                                                               \
        return ::dcnlab_cpu::Entry<&__VA_ARGS__>::launch(request, DCNLAB_DYNAMIC, DCNLAB_DYNAMIC_LIMIT);      \
    }                                                                                                          \
    extern "C" __attribute__((visibility("default"))) const uint64_t* dcnlab_sizes_##NUMBER() {               \
        return ::dcnlab_cpu::Entry<&__VA_ARGS__>::sizes;                                                      \
    }
