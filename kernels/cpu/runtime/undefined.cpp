// Undefined behaviour: the calls that -fsanitize=undefined puts into a kernel, answered with a report instead of the
// sanitizer's own library. Each passes a record that begins with the file and line.
#include <cstdint>

#include "fault.h"

namespace dcnlab_cpu {
namespace {

struct SourceLocation {
    const char* file;
    uint32_t line, column;
};
struct TypeDescriptor {
    uint16_t kind, info;
    char name[1];
};
struct IndexData {
    SourceLocation where;
    const TypeDescriptor *array, *index;
};
struct AccessData {
    SourceLocation where;
    const TypeDescriptor* type;
    unsigned char log_alignment, access;
};

[[noreturn]] void undefined(const void* data, const char* what) {
    const SourceLocation& where = *static_cast<const SourceLocation*>(data);
    fault("undefined behaviour", where.file ? where.file : "?", int(where.line), "%s", what);
}

// A signed index wider than a pointer comes by address, others by value.
long long index_value(const TypeDescriptor* type, uintptr_t value) {
    const unsigned bits = 1u << (type->info >> 1);
    if (type->kind != 0 || bits > 64) return (long long)value;
    if (!(type->info & 1) || bits == 64) return (long long)value;
    return (long long)(value << (64 - bits)) >> (64 - bits);
}

}  // namespace
}  // namespace dcnlab_cpu

using namespace dcnlab_cpu;

#define DCNLAB_UNDEFINED(NAME, WHAT) \
    extern "C" void __ubsan_handle_##NAME(void* data) { undefined(data, WHAT); }
DCNLAB_UNDEFINED(add_overflow, "signed integer overflow in an addition")
DCNLAB_UNDEFINED(sub_overflow, "signed integer overflow in a subtraction")
DCNLAB_UNDEFINED(mul_overflow, "signed integer overflow in a multiplication")
DCNLAB_UNDEFINED(negate_overflow, "signed integer overflow in a negation")
DCNLAB_UNDEFINED(divrem_overflow, "integer division by zero or overflow in a division")
DCNLAB_UNDEFINED(shift_out_of_bounds, "shift by a negative number of bits, or by as many as the type has, or more")
DCNLAB_UNDEFINED(float_cast_overflow, "conversion of a floating-point value that the integer type cannot hold")
DCNLAB_UNDEFINED(load_invalid_value, "load of a value that its type does not have")
DCNLAB_UNDEFINED(pointer_overflow, "pointer arithmetic that wraps around")
DCNLAB_UNDEFINED(builtin_unreachable, "execution reached code marked as unreachable")
DCNLAB_UNDEFINED(missing_return, "a function that returns a value ended without one")
DCNLAB_UNDEFINED(vla_bound_not_positive, "array with a size that is not positive")
DCNLAB_UNDEFINED(nonnull_arg, "null pointer passed where the function forbids it")
DCNLAB_UNDEFINED(nonnull_return_v1, "null pointer returned where the function forbids it")
DCNLAB_UNDEFINED(invalid_builtin, "argument 0 to a function that counts bits")
DCNLAB_UNDEFINED(alignment_assumption, "pointer that is not aligned as promised")
DCNLAB_UNDEFINED(function_type_mismatch, "call of a function through a pointer of another type")

extern "C" void __ubsan_handle_out_of_bounds(void* data, uintptr_t index) {
    const auto& record = *static_cast<const IndexData*>(data);
    fault("out of bounds", record.where.file, int(record.where.line), "index %lld of an array of type %s",
          index_value(record.index, index), record.array->name);
}

extern "C" void __ubsan_handle_type_mismatch_v1(void* data, uintptr_t pointer) {
    const auto& record = *static_cast<const AccessData*>(data);
    const unsigned alignment = 1u << record.log_alignment;
    const char* file = record.where.file;
    if (!pointer) fault("null pointer", file, int(record.where.line), "access through a null pointer");
    if (pointer % alignment)
        fault("misaligned access", file, int(record.where.line), "%s needs an address that is a multiple of %u",
              record.type->name, alignment);
    undefined(data, "access to memory too small for its type");
}
