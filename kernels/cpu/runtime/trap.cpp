#include "trap.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "check.h"
#include "fault.h"

namespace dcnlab_cpu {
namespace {

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
constexpr size_t SIGNAL_STACK_BYTES = 64 * 1024;
struct sigaction before[4];
thread_local stack_t stack_before;
thread_local void* signal_stack = nullptr;

uintptr_t program_counter(const void* context) {
#if defined(__x86_64__)
    return uintptr_t(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return uintptr_t(static_cast<const ucontext_t*>(context)->uc_mcontext.pc);
#else
    (void)context;
    return 0;
#endif
}

void handle(int signal, siginfo_t* info, void* context) {
    if (!block || !control.watched) {  // not ours: whoever handled it before shall have it again
        for (int i = 0; i < 4; ++i)
            if (SIGNALS[i] == signal) sigaction(signal, &before[i], nullptr);
        return;
    }
    control.watched = false;
    const bool arithmetic = signal == SIGFPE;
    Report* report =
        arithmetic ? new_report("arithmetic fault", "integer division by zero")
                   : new_report("memory fault", "access to address %p, which is not there (mode=\"check\" tells the array)",
                                info->si_addr);
    if (report) {
        const Library library = find_library(reinterpret_cast<const void*>(block->launch().kernel.run_threads));
        const uintptr_t at = program_counter(context), low = reinterpret_cast<uintptr_t>(library.low);
        if (at >= low && at < reinterpret_cast<uintptr_t>(library.high)) report->place.address = at - library.bias;
    }
    block->abandon();  // leaves the handler for good; SA_NODEFER keeps the signal deliverable
}

}  // namespace

Traps::Traps() {
    struct sigaction action = {};
    action.sa_sigaction = &handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &action, &before[i]);
}
Traps::~Traps() {
    for (int i = 0; i < 4; ++i) sigaction(SIGNALS[i], &before[i], nullptr);
}

SignalStack::SignalStack() {
    if (!signal_stack) {
        void* memory = mmap(nullptr, SIGNAL_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED) signal_stack = memory;
    }
    stack_t stack = {};
    stack.ss_sp = signal_stack;
    stack.ss_size = SIGNAL_STACK_BYTES;
    stack.ss_flags = signal_stack ? 0 : SS_DISABLE;
    sigaltstack(&stack, &stack_before);
}
SignalStack::~SignalStack() { sigaltstack(&stack_before, nullptr); }

}  // namespace dcnlab_cpu
