// A kernel that runs into memory that is not there, or divides by zero, ends with a report instead of the process.
#pragma once

namespace dcnlab_cpu {

// While it lives, faults of kernel code (and of no other) end in a report. One at a time: launches hold a lock.
class Traps {
public:
    Traps();
    ~Traps();
};

// A stack of its own for the handler: the kernel's may be what has run out.
class SignalStack {
public:
    SignalStack();
    ~SignalStack();
};

}  // namespace dcnlab_cpu
