// Switching between stacks: what lets a thread of a block wait at a barrier while the others go on.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

namespace dcnlab_cpu {

#if defined(__x86_64__) || defined(__aarch64__)
struct Context { void* stack_pointer; };
extern "C" void dcnlab_switch(void** save, void* load);
inline void switch_to(Context& from, const Context& to) { dcnlab_switch(&from.stack_pointer, to.stack_pointer); }
#else
struct Context { ucontext_t state; };
inline void switch_to(Context& from, const Context& to) { swapcontext(&from.state, &to.state); }
#endif

// Make `context` one that calls `function`, which never returns, on the stack below `top`.
void prepare(Context& context, char* top, void (*function)());

}  // namespace dcnlab_cpu
