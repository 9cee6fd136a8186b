// The checked mode: out-of-bounds and misaligned accesses, data races, reads of uninitialised shared memory.
#include "check.h"

#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "fault.h"

namespace dcnlab_cpu {
namespace {

// One access that a cell remembers.
struct Access {
    uint32_t block = 0;  // 1 + its number; 0: none
    uint32_t epoch, warp_epoch, time;
    uint32_t address;  // of the code, relative to the library
    uint16_t thread;
    bool atomic;
};

// What is known about `granule` bytes of memory. Two reads by different threads are enough: whoever writes next, one
// of them is not his own.
struct Cell {
    Access write, read, earlier_read;
};

enum class Memory { ARRAY, SHARED, DYNAMIC_SHARED };

struct Region {
    Memory memory;
    char* start;
    size_t bytes, item;
    int argument;
    Traffic* traffic;  // arrays: the account of what is asked of them
    size_t granule;
    std::vector<Cell> cells;

    bool holds(const char* p) const { return p >= start && p < start + bytes; }
    const char* name() const { return memory == Memory::SHARED ? "__shared__ memory" : "dynamic shared memory"; }
    // An access that does not fall on whole granules makes them single bytes.
    void refine(size_t offset, size_t length) {
        if (offset % granule == 0 && length % granule == 0) return;
        std::vector<Cell> fine(bytes);
        for (size_t byte = 0; byte < bytes; ++byte) fine[byte] = cells[byte / granule];
        cells.swap(fine);
        granule = 1;
    }
};

Region make_region(Memory memory, char* start, size_t bytes, size_t item, int argument = -1, Traffic* traffic = nullptr) {
    const size_t granule = item == 1 || item == 2 || item == 4 ? item : item % 4 == 0 ? 4 : 1;
    return {memory, start, bytes, item, argument, traffic, granule, std::vector<Cell>(bytes / granule + 1)};
}

// Blocks that told others about their results: __threadfence(), then an atomic on a flag or counter. `clock` counts both.
struct Publication {
    uint32_t fenced = 0, published = 0, published_at = 0, looked = 0;
};

std::vector<Region> regions;
std::vector<Publication> publications;
uint32_t clock_now;
Library library;

const Region* nearest_array(const char* p, size_t& distance) {
    const Region* best = nullptr;
    distance = ~size_t(0);
    for (const Region& region : regions) {
        if (region.memory != Memory::ARRAY) continue;
        const size_t d = p < region.start ? size_t(region.start - p) : size_t(p - (region.start + region.bytes));
        if (d < distance) distance = d, best = &region;
    }
    return best;
}

uint64_t debug_address(uint32_t address) { return uint64_t(library.low - reinterpret_cast<char*>(library.bias)) + address; }

[[noreturn]] void give_up(Report* report, const Region* region, const char* p, uint32_t address) {
    if (report) {
        report->place.address = debug_address(address);
        if (region && region->memory == Memory::ARRAY) {
            const ptrdiff_t offset = p - region->start, item = ptrdiff_t(region->item);
            report->argument = region->argument;
            report->index = offset >= 0 ? offset / item : -((-offset + item - 1) / item);
        }
    }
    block->abandon();
}

// Did `past` happen before what the running thread does now?
bool ordered(const Access& past) {
    const Publication& mine = publications[block->number()];
    if (past.block != block->number() + 1) {
        const Publication& theirs = publications[past.block - 1];
        return past.time < theirs.published && theirs.published_at < mine.looked;
    }
    if (past.thread == block->thread() || past.epoch < block->epoch()) return true;
    const bool same_warp = past.thread / WARP == block->thread() / WARP;
    return same_warp && past.warp_epoch < block->warp_epoch(block->thread());
}

[[noreturn]] void out_of_bounds(char* p, size_t bytes, bool write, uint32_t address) {
    const char* verb = write ? "write" : "read";
    if (reinterpret_cast<uintptr_t>(p) < 4096)
        give_up(new_report("null pointer", "%s of %zu bytes through a null pointer", verb, bytes), nullptr, p, address);
    const size_t limit = block->launch().kernel.dynamic_limit, dynamic = block->launch().request.shared_bytes;
    if (block->dynamic_base && p >= block->dynamic_base && p < block->dynamic_base + limit)
        give_up(new_report("out of bounds", "%s of %zu bytes at byte %zu of the %zu bytes of dynamic shared memory", verb,
                           bytes, size_t(p - block->dynamic_base), dynamic),
                nullptr, p, address);
    size_t distance;
    const Region* region = nearest_array(p, distance);
    if (!region || distance > (size_t(1) << 32))
        give_up(new_report("out of bounds", "%s of %zu bytes at an address that belongs to no argument", verb, bytes),
                nullptr, p, address);
    give_up(new_report("out of bounds", "%s of %zu bytes", verb, bytes), region, p, address);
}

void race(const Region& region, size_t cell, const Access& past, const char* other_does, bool write, bool atomic,
          uint32_t address) {
    if (!past.block || ordered(past) || (past.atomic && atomic)) return;
    const char* does = atomic ? "atomic" : write ? "write" : "read";
    char* p = region.start + cell * region.granule;
    Report* report = region.memory == Memory::ARRAY
                         ? new_report("data race", "%s", does)
                         : new_report("data race", "%s of byte %zu of %s", does, cell * region.granule, region.name());
    if (report) {
        const size_t number = past.block - 1, nx = control.grid_size.x, ny = control.grid_size.y;
        const uint32_t other_block[3] = {uint32_t(number % nx), uint32_t(number / nx % ny), uint32_t(number / nx / ny)};
        const uint3 t = block->thread_index(past.thread);
        const uint32_t other_thread[3] = {t.x, t.y, t.z};
        report->has_other = 1;
        snprintf(report->other_does, sizeof report->other_does, "%s", past.atomic ? "atomic" : other_does);
        memcpy(report->other_block, other_block, sizeof other_block);
        memcpy(report->other_thread, other_thread, sizeof other_thread);
        report->other.address = debug_address(past.address);
    }
    give_up(report, &region, p, address);
}

void visit_cell(Region& region, size_t index, bool write, bool atomic, bool reads, uint32_t address) {
    Cell& cell = region.cells[index];
    const uint32_t mine = uint32_t(block->number()) + 1;
    if (region.memory != Memory::ARRAY) {  // what other blocks did there is gone
        for (Access* access : {&cell.write, &cell.read, &cell.earlier_read})
            if (access->block != mine) access->block = 0;
        if (reads && !cell.write.block)
            give_up(new_report("uninitialised shared memory", "read of byte %zu of %s before any thread wrote it (is a barrier missing?)",
                               index * region.granule, region.name()),
                    &region, region.start, address);
    }
    race(region, index, cell.write, "write", write, atomic, address);
    if (write) {
        race(region, index, cell.read, "read", write, atomic, address);
        race(region, index, cell.earlier_read, "read", write, atomic, address);
    }
    const unsigned thread = block->thread();
    const Access access{mine, block->epoch(), block->warp_epoch(thread), clock_now, address, uint16_t(thread), atomic};
    if (write) {
        cell.write = access;
    } else {
        if (cell.read.block != mine || cell.read.thread != thread) cell.earlier_read = cell.read;
        cell.read = access;
    }
}

void visit(void* where, size_t bytes, bool write, bool atomic, bool reads, void* code, size_t alignment) {
    if (!control.watched || !bytes) return;
    char* p = static_cast<char*>(where);
    const char* own = reinterpret_cast<const char*>(&control);
    if ((p >= own && p < own + sizeof control) || block->on_a_stack(p)) return;
    const uint32_t address = uint32_t(static_cast<char*>(code) - library.low) - 1;  // inside the call, not after it
    Region* region = nullptr;
    for (Region& candidate : regions)
        if (candidate.holds(p)) region = &candidate;
    if (!region) {
        if (p >= library.low && p < library.high) return;  // constants and __device__ variables
        out_of_bounds(p, bytes, write, address);
    }
    const size_t offset = size_t(p - region->start);
    const char* verb = write ? "write" : "read";
    if (offset + bytes > region->bytes)
        give_up(new_report("out of bounds", "%s of %zu bytes that begins inside and ends outside", verb, bytes), region, p,
                address);
    if (reinterpret_cast<uintptr_t>(p) % alignment)
        give_up(new_report("misaligned access", "%s of %zu bytes at an address that is no multiple of %zu", verb, bytes,
                           alignment),
                region, p, address);
    if (region->traffic)
        (atomic ? region->traffic->atomic : write ? region->traffic->written : region->traffic->read) += bytes;
    region->refine(offset, bytes);
    for (size_t cell = offset / region->granule; cell * region->granule < offset + bytes; ++cell)
        visit_cell(*region, cell, write, atomic, reads, address);
}

}  // namespace

void check_begin_launch(const Launch& launch) {
    library = find_library(reinterpret_cast<const void*>(launch.kernel.run_threads));
    regions.clear();
    clock_now = 1;
    publications.assign(launch.blocks, {});
    for (size_t p = 0; p < launch.kernel.parameters; ++p) {
        const Argument& argument = launch.request.arguments[p];
        if (!argument.data || !argument.bytes) continue;
        char* data = static_cast<char*>(argument.data);
        regions.push_back(
            make_region(Memory::ARRAY, data, argument.bytes, argument.item, int(p), launch.request.traffic + p));
    }
    char *low = block->shared_base, *high = low + block->shared_bytes, *dynamic = block->dynamic_base;
    if (dynamic) {
        const size_t bytes = launch.request.shared_bytes;
        if (bytes) regions.push_back(make_region(Memory::DYNAMIC_SHARED, dynamic, bytes, 4));
        char* after = dynamic + launch.kernel.dynamic_limit;
        if (after < high) regions.push_back(make_region(Memory::SHARED, after, size_t(high - after), 4));
        high = dynamic;
    }
    if (low < high) regions.push_back(make_region(Memory::SHARED, low, size_t(high - low), 4));
}

void watch_atomic(const void* address, int bytes, bool reads, void* caller) {
    if (!control.watched) return;
    Publication& mine = publications[block->number()];
    mine.looked = ++clock_now;
    if (mine.fenced) mine.published = mine.fenced, mine.published_at = clock_now;
    visit(const_cast<void*>(address), size_t(bytes), true, true, reads, caller, size_t(bytes));
}

void watch_fence() {
    if (control.watched) publications[block->number()].fenced = ++clock_now;
}

Library find_library(const void* code) {
    struct Search {
        uintptr_t code;
        Library found;
    } search{reinterpret_cast<uintptr_t>(code), {nullptr, nullptr, 0}};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) -> int {
            Search& s = *static_cast<Search*>(data);
            uintptr_t low = ~uintptr_t(0), high = 0;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto& header = info->dlpi_phdr[i];
                if (header.p_type != PT_LOAD) continue;
                low = std::min<uintptr_t>(low, info->dlpi_addr + header.p_vaddr);
                high = std::max<uintptr_t>(high, info->dlpi_addr + header.p_vaddr + header.p_memsz);
            }
            if (s.code < low || s.code >= high) return 0;
            s.found = {reinterpret_cast<char*>(low), reinterpret_cast<char*>(high), info->dlpi_addr};
            return 1;
        },
        &search);
    return search.found;
}

extern "C" void* __tls_get_addr(void*);

SharedVariables find_shared(const void* code) {
    struct Search {
        uintptr_t code;
        size_t module, bytes;
    } search{reinterpret_cast<uintptr_t>(code), 0, 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) -> int {
            Search& s = *static_cast<Search*>(data);
            bool mine = false;
            size_t bytes = 0;
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto& header = info->dlpi_phdr[i];
                const uintptr_t low = info->dlpi_addr + header.p_vaddr;
                if (header.p_type == PT_LOAD && s.code >= low && s.code < low + header.p_memsz) mine = true;
                if (header.p_type == PT_TLS) bytes = header.p_memsz;
            }
            if (mine && bytes) s.module = info->dlpi_tls_modid, s.bytes = bytes;
            return mine;
        },
        &search);
    if (!search.bytes) return {nullptr, 0};
    // The block of a library's thread-local variables comes into being with the first look at it.
    size_t index[2] = {search.module, 0};
    return {static_cast<char*>(__tls_get_addr(index)), search.bytes};
}

}  // namespace dcnlab_cpu

// ---- what the compiler calls before every access of a checked kernel

using dcnlab_cpu::visit;
#define DCNLAB_CALLER __builtin_return_address(0)
#define DCNLAB_ACCESS(NAME, BYTES, WRITE, ALIGNMENT) \
    extern "C" void NAME(void* p) { visit(p, BYTES, WRITE, false, !(WRITE), DCNLAB_CALLER, ALIGNMENT); }
#define DCNLAB_ACCESSES(BYTES)                                            \
    DCNLAB_ACCESS(__tsan_read##BYTES, BYTES, false, BYTES)                \
    DCNLAB_ACCESS(__tsan_write##BYTES, BYTES, true, BYTES)                \
    DCNLAB_ACCESS(__tsan_unaligned_read##BYTES, BYTES, false, 1)          \
    DCNLAB_ACCESS(__tsan_unaligned_write##BYTES, BYTES, true, 1)          \
    DCNLAB_ACCESS(__tsan_volatile_read##BYTES, BYTES, false, BYTES)       \
    DCNLAB_ACCESS(__tsan_volatile_write##BYTES, BYTES, true, BYTES)
DCNLAB_ACCESSES(1)
DCNLAB_ACCESSES(2)
DCNLAB_ACCESSES(4)
DCNLAB_ACCESSES(8)
DCNLAB_ACCESSES(16)

extern "C" {
void __tsan_read_range(void* p, size_t n) { visit(p, n, false, false, true, DCNLAB_CALLER, 1); }
void __tsan_write_range(void* p, size_t n) { visit(p, n, true, false, false, DCNLAB_CALLER, 1); }
// clang's copies and fills of whole structures.
void* __tsan_memcpy(void* to, const void* from, size_t n) {
    visit(const_cast<void*>(from), n, false, false, true, DCNLAB_CALLER, 1);
    visit(to, n, true, false, false, DCNLAB_CALLER, 1);
    return memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
    visit(const_cast<void*>(from), n, false, false, true, DCNLAB_CALLER, 1);
    visit(to, n, true, false, false, DCNLAB_CALLER, 1);
    return memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
    visit(to, n, true, false, false, DCNLAB_CALLER, 1);
    return memset(to, value, n);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}
void __tsan_ignore_thread_begin() {}
void __tsan_ignore_thread_end() {}
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}
}
