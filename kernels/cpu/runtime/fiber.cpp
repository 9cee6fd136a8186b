// The machine code of a switch. The registers that a function must keep are pushed on the stack that is left and popped
// from the one that is entered; the stack pointer is all there is to remember.
#include "fiber.h"

#include <cstdint>
#include <cstring>

namespace dcnlab_cpu {

#if defined(__x86_64__)

asm(R"(
.text
.hidden dcnlab_switch
.globl dcnlab_switch
.type dcnlab_switch,@function
dcnlab_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp,(%rdi)
    movq %rsi,%rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size dcnlab_switch,.-dcnlab_switch
)");

void prepare(Context& context, char* top, void (*function)()) {
    void** slot = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15));
    *--slot = nullptr;  // where `function` would return to; also aligns the stack as after a call
    *--slot = reinterpret_cast<void*>(function);
    for (int saved = 0; saved < 6; ++saved) *--slot = nullptr;
    context.stack_pointer = slot;
}

#elif defined(__aarch64__)

asm(R"(
.text
.hidden dcnlab_switch
.globl dcnlab_switch
.type dcnlab_switch,%function
dcnlab_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size dcnlab_switch,.-dcnlab_switch
)");

void prepare(Context& context, char* top, void (*function)()) {
    char* frame = reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t(15)) - 160;
    memset(frame, 0, 160);
    *reinterpret_cast<void**>(frame + 88) = reinterpret_cast<void*>(function);  // x30, the return address
    context.stack_pointer = frame;
}

#else

constexpr size_t UCONTEXT_STACK = 192 * 1024;  // less than a Stack, whose top `prepare` is given
void prepare(Context& context, char* top, void (*function)()) {
    getcontext(&context.state);
    context.state.uc_stack.ss_sp = top - UCONTEXT_STACK;
    context.state.uc_stack.ss_size = UCONTEXT_STACK;
    context.state.uc_link = nullptr;
    makecontext(&context.state, function, 0);
}

#endif

}  // namespace dcnlab_cpu
