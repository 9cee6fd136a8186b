// The checked mode: every access of the kernel is looked at before it happens.
//
// A checked kernel is compiled with -fsanitize=thread but not linked with that sanitizer: the calls the compiler puts
// in before every access come here. One worker runs the blocks in order, so what is found does not depend on timing.
#pragma once

#include "block.h"

namespace dcnlab_cpu {

void check_begin_launch(const Launch& launch);

// The static __shared__ variables of the library that holds `code`, for the calling worker.
struct SharedVariables {
    char* base;
    size_t bytes;
};
SharedVariables find_shared(const void* code);

// Where a library lies in memory.
struct Library {
    char *low, *high;
    uintptr_t bias;  // subtract from an address to get the one its debug information knows
};
Library find_library(const void* code);

}  // namespace dcnlab_cpu
