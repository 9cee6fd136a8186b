// What went wrong first in a launch, for Python to raise.
#pragma once

#include "block.h"

namespace dcnlab_cpu {

bool failed();
void start_reporting(Report* report);

// The report if this is the launch's first fault, with kind, text, block and thread filled in; else null.
Report* new_report(const char* kind, const char* format, ...) __attribute__((format(printf, 2, 3)));
void set_place(Place& place, const char* file, int line);

// Report a fault at a known place and leave the block.
[[noreturn]] void fault(const char* kind, const char* file, int line, const char* format, ...)
    __attribute__((format(printf, 4, 5)));

}  // namespace dcnlab_cpu
