// Scattered<T>: an array that a kernel only ever adds to with atomicAdd.
//
// On a GPU it is a pointer like any other. The CPU's header has a class of that name: knowing that nobody reads the
// array while the kernel runs, the launcher gives every worker a copy of its own and adds the copies up in a fixed order.
#pragma once

#ifndef DCNLAB_CPU
template <typename T>
using Scattered = T*;
#endif
