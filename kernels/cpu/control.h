// What a compiled kernel and the runtime library know about each other. Plain data and functions only: the two may
// have been built by different compilers' standard libraries.
#pragma once

#include "types.h"

namespace dcnlab_cpu {

// Where the running thread stands. Small, so that the cheapest model of thread-local storage is safe in a library
// that is loaded late; constinit, so that no access goes through an initialiser.
struct Control {
    uint3 thread{0, 0, 0}, block{0, 0, 0};
    dim3 block_size, grid_size;
    unsigned number = 0;   // of the thread in its block, x fastest
    bool alone = true;     // one worker runs the whole launch: atomics need no lock
    bool watched = false;  // inside kernel code of a checked launch
    bool plain = false;    // the threads of a block run as one loop, without a word to the runtime: see Kernel::plain
};
extern constinit thread_local Control control __attribute__((tls_model("initial-exec")));

// Lengths of the texts in a Report.
constexpr size_t KIND_LENGTH = 48, TEXT_LENGTH = 400, FILE_LENGTH = 400;

// A place in the code: a file and line where the compiler knew them, else an address relative to the library.
struct Place {
    char file[FILE_LENGTH];
    int32_t line;
    uint64_t address;  // 0 where file and line are known
};

// The first thing that went wrong in a launch. Mirrored by dcnlab/launch/faults.py.
struct Report {
    char kind[KIND_LENGTH];
    char text[TEXT_LENGTH];
    uint32_t block[3], thread[3];
    Place place;
    int32_t argument;  // position of the array argument, -1 where none is concerned
    int64_t index;     // element of that array, counted from its first; may lie outside
    int32_t has_other;  // a race has two sides
    char other_does[16];
    uint32_t other_block[3], other_thread[3];
    Place other;
};

// One argument as Python passes it: where its value lies, and for arrays what it points to.
struct Argument {
    void* value;    // as cuLaunchKernel takes it: a pointer to the argument
    void* data;     // arrays: the first element; null for scalars
    uint64_t bytes;  // arrays: how many bytes from there belong to it
    uint64_t item;   // arrays: bytes of an element
};

// Bytes of one array argument that a checked launch asked for. Mirrored by dcnlab/launch/traffic.py.
struct Traffic {
    uint64_t read, written, atomic;
};

// A launch as Python asks for it. Mirrored by dcnlab/launch/cpu.py.
struct Request {
    uint32_t grid[3], block[3];
    uint64_t shared_bytes;  // dynamic shared memory
    uint32_t workers;
    int32_t checked;  // the library was built with DCNLAB_CHECK
    int32_t order;    // in which the threads of a block start: 0 forward, 1 backward, 2 shuffled by `seed`
    uint32_t seed;
    const Argument* arguments;
    Report* report;
    Traffic* traffic;  // one an argument, zeroed; filled by checked launches
};

// What the compiled library adds: its kernel.
struct Kernel {
    uint32_t parameters;
    uint64_t tuple_bytes;                               // room for one bound set of arguments
    void (*bind)(void* const* values, void* tuple);     // copies the arguments out of a list of pointers
    void (*run_threads)(const void* tuple);             // calls the kernel for thread after thread
    const unsigned char* scattered;                     // per parameter: bytes of the sums' type, 0 for others
    bool sums;                                          // adds floating-point numbers atomically outside those
    bool plain;                                         // its source names no barrier, shuffle or vote
    void* (*dynamic_shared)();                          // its dynamic shared memory; null where it has none
    uint64_t dynamic_limit;
};

// The runtime's side. Returns 0, or 1 with the report filled in.
int launch(const Kernel& kernel, const Request& request);
bool next_thread();  // sets up the next thread of the block to run on this stack; false when none is left
void end_thread();
int block_barrier(int predicate, int* threads, const char* file, int line);  // how many predicates held, of how many
void warp_barrier(unsigned mask, const char* file, int line);
void exchange(unsigned mask, const void* mine, void* theirs, int bytes, int source, const char* file, int line);
unsigned ballot(unsigned mask, int predicate, const char* file, int line);
unsigned active_lanes();
[[noreturn]] void stop(const char* kind, const char* text, const char* file, int line);
void watch_atomic(const void* address, int bytes, bool reads, void* caller);  // checked builds only
void watch_fence();

}  // namespace dcnlab_cpu

#define threadIdx (::dcnlab_cpu::control.thread)
#define blockIdx (::dcnlab_cpu::control.block)
#define blockDim (::dcnlab_cpu::control.block_size)
#define gridDim (::dcnlab_cpu::control.grid_size)
constexpr int warpSize = 32;
