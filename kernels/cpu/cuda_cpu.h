// CUDA C++ on a CPU: included before an unchanged .cu file, this gives CUDA's names their meaning in C++20.
//
// One worker thread runs one block at a time. The threads of a block run one after the other as a plain loop; a
// thread that meets a barrier is put aside on its own stack and the loop goes on with the next thread (runtime/block.h).
// What is here: qualifiers and vector types, barriers, shuffles and votes, atomics, the arithmetic names of device code.
// What is not: textures, cooperative groups, inline PTX, tensor cores, launches from a kernel.
#pragma once

#define DCNLAB_CPU 1

// Code of ours around what the kernel wrote. A checked build keeps it out of line, so that the return address of the
// outermost function is the line of the kernel, and uninstrumented, so that only the kernel's own accesses are watched.
#if defined(DCNLAB_CHECK)
#define DCNLAB_OWN __attribute__((noinline, no_sanitize("thread"))) static
#else
#define DCNLAB_OWN __attribute__((always_inline)) static inline
#endif

#include "types.h"

#include "control.h"

#include "sync.h"

#include "atomics.h"

#include "intrinsics.h"

#include "entry.h"

// Last: the standard library's own headers spell an attribute with this name.
#define __noinline__ __attribute__((noinline))
