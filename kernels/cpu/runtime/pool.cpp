// Blocks on worker threads, and sums that do not depend on how many there are.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "check.h"
#include "fault.h"
#include "trap.h"

namespace dcnlab_cpu {
namespace {

// A launch with Scattered arguments is cut into this many parts, each a run of consecutive blocks that one worker
// executes in order, adding into a zeroed copy. The copies are added to the array in the order of the parts. Neither
// the cut nor the order knows the number of workers, so neither do the sums. Memory: one copy per worker.
constexpr size_t PARTS = 8;

struct Sum {
    size_t parameter, bytes, item;
};

// An idle worker keeps its (zero) copies for the next launch, up to this many bytes.
constexpr size_t KEEP_BYTES = size_t(64) << 20;
// Fewer workers run where their copies would take more than this.
constexpr size_t COPIES_BYTES = size_t(1) << 30;

class Copies {
public:
    char* get(size_t which, size_t bytes) {
        if (which >= buffers_.size()) buffers_.resize(which + 1);
        auto& buffer = buffers_[which];
        if (buffer.size() * sizeof(Line) < bytes) buffer.assign((bytes + sizeof(Line) - 1) / sizeof(Line), Line{});
        return reinterpret_cast<char*>(buffer.data());
    }
    void shrink() {
        size_t bytes = 0;
        for (auto& buffer : buffers_) bytes += buffer.size() * sizeof(Line);
        if (bytes > KEEP_BYTES) clear();
    }
    void clear() { buffers_.clear(); }  // also after a fault, when they may not be zero

private:
    struct alignas(64) Line {
        char bytes[64];
    };
    std::vector<std::vector<Line>> buffers_;
};

// target += copy, copy = 0. Lines that nothing was added to are passed over.
template <typename T>
void fold_as(void* target, char* copy, size_t count) {
    T *to = static_cast<T*>(target), *from = reinterpret_cast<T*>(copy);
    constexpr size_t STEP = 64 / sizeof(T);
    for (size_t start = 0; start < count; start += STEP) {
        uint64_t words[8], any = 0;
        memcpy(words, from + start, 64);  // copies are whole lines
        for (uint64_t word : words) any |= word;
        if (!any) continue;
        const size_t length = std::min(STEP, count - start);
        for (size_t i = 0; i < length; ++i) to[start + i] += from[start + i];
        memset(from + start, 0, 64);
    }
}
void fold(const Sum& sum, void* target, char* copy) {
    if (sum.item == 8) fold_as<double>(target, copy, sum.bytes / 8);
    else fold_as<float>(target, copy, sum.bytes / 4);
}

// Everything the workers share about the launch that is running.
struct Job {
    Job(const Kernel& kernel, const Request& request)
        : launch{kernel, request, {}, size_t(request.grid[0]) * request.grid[1] * request.grid[2]} {
        for (size_t p = 0; p < kernel.parameters; ++p) {
            const Argument& argument = request.arguments[p];
            launch.values.push_back(argument.value);
            if (kernel.scattered[p] && !request.checked) sums.push_back({p, argument.bytes, kernel.scattered[p]});
        }
        parts = sums.empty() ? launch.blocks : std::min(PARTS, launch.blocks);
    }
    size_t copy_bytes() const {
        size_t bytes = 0;
        for (const Sum& sum : sums) bytes += sum.bytes;
        return bytes;
    }
    Launch launch;
    std::vector<Sum> sums;
    size_t parts, chunk = 1;
    std::atomic<size_t> next{0};
    std::mutex mutex;
    std::condition_variable turned;
    size_t turn = 0;  // the part whose copies may be added now
};

class Worker {
public:
    // Out of memory is a fault like others: an exception must leave neither a fiber nor the C interface.
    void work(Job& job) {
        const SignalStack stack;
        try {
            prepare_and_run(job);
        } catch (const std::bad_alloc&) {
            new_report("out of memory", "no room for a worker's copies of the scattered arrays");
        }
    }

private:
    void prepare_and_run(Job& job) {
        static thread_local std::unique_ptr<Block> owner;
        if (!owner) owner = std::make_unique<Block>();
        block = owner.get();
        const SharedVariables shared = find_shared(reinterpret_cast<const void*>(job.launch.kernel.run_threads));
        block->shared_base = shared.base;
        block->shared_bytes = shared.bytes;
        const auto dynamic = job.launch.kernel.dynamic_shared;
        block->dynamic_base = dynamic ? static_cast<char*>(dynamic()) : nullptr;
        std::vector<void*> values = job.launch.values;
        std::vector<char*> copies(job.sums.size());
        for (size_t s = 0; s < job.sums.size(); ++s) {
            copies[s] = copies_.get(s, job.sums[s].bytes);
            values[job.sums[s].parameter] = &copies[s];
        }
        std::vector<std::max_align_t> bound(job.launch.kernel.tuple_bytes / sizeof(std::max_align_t) + 1);
        job.launch.kernel.bind(values.data(), bound.data());
        block->begin(job.launch, bound.data());
        if (job.launch.request.checked) check_begin_launch(job.launch);
        if (job.sums.empty()) run_blocks(job);
        else run_parts(job, copies);
        if (failed()) copies_.clear();
        else copies_.shrink();
    }
    void run_blocks(Job& job) {
        for (;;) {
            const size_t first = job.next.fetch_add(job.chunk, std::memory_order_relaxed);
            const size_t end = std::min(job.launch.blocks, first + job.chunk);
            for (size_t number = first; number < end; ++number) {
                if (failed()) return;
                block->run(number);
            }
            if (end >= job.launch.blocks) return;
        }
    }
    void run_parts(Job& job, const std::vector<char*>& copies) {
        for (size_t part; (part = job.next.fetch_add(1, std::memory_order_relaxed)) < job.parts;) {
            const size_t first = part * job.launch.blocks / job.parts, end = (part + 1) * job.launch.blocks / job.parts;
            for (size_t number = first; number < end && !failed(); ++number) block->run(number);
            std::unique_lock<std::mutex> lock(job.mutex);
            job.turned.wait(lock, [&] { return job.turn == part; });
            for (size_t s = 0; s < copies.size() && !failed(); ++s)
                fold(job.sums[s], job.launch.request.arguments[job.sums[s].parameter].data, copies[s]);
            ++job.turn;
            job.turned.notify_all();
        }
    }
    Copies copies_;
};

class Pool {
public:
    int run(const Kernel& kernel, Request request) {
        std::lock_guard<std::mutex> one_launch(launching_);
        const bool in_order = request.checked || kernel.sums;
        const size_t blocks = size_t(request.grid[0]) * request.grid[1] * request.grid[2];
        size_t workers = in_order ? 1 : std::max<size_t>(1, request.workers);
        workers = std::min(workers, blocks);
        request.workers = unsigned(workers);
        Job job(kernel, request);
        if (job.copy_bytes() > COPIES_BYTES / workers)
            request.workers = unsigned(workers = std::max<size_t>(1, COPIES_BYTES / job.copy_bytes()));
        job.chunk = std::max<size_t>(1, blocks / (workers * 16));
        start_reporting(request.report);
        const Traps traps;
        if (workers > 1) {
            std::lock_guard<std::mutex> lock(mutex_);
            job_ = &job;
            wanted_ = busy_ = workers - 1;
            ++generation_;
            while (threads_ < workers - 1) std::thread(&Pool::serve, this, threads_++, generation_ - 1).detach();
            wake_.notify_all();
        }
        first_.work(job);
        if (workers > 1) {
            std::unique_lock<std::mutex> lock(mutex_);
            idle_.wait(lock, [&] { return busy_ == 0; });
        }
        return failed() ? 1 : 0;
    }

private:
    void serve(size_t number, unsigned seen) {
        Worker worker;
        for (;;) {
            Job* job;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_ != seen; });
                seen = generation_;
                if (number >= wanted_) continue;
                job = job_;
            }
            worker.work(*job);
            std::lock_guard<std::mutex> lock(mutex_);
            if (--busy_ == 0) idle_.notify_all();
        }
    }
    std::mutex launching_, mutex_;
    std::condition_variable wake_, idle_;
    Job* job_ = nullptr;
    size_t threads_ = 0, wanted_ = 0, busy_ = 0;
    unsigned generation_ = 0;
    Worker first_;
};

// Never destroyed: its threads may outlive main. A forked child has none of them, and starts afresh.
Pool* pool = nullptr;
std::mutex creating;
void forget_pool() {
    pool = nullptr;
    new (&creating) std::mutex;
}
Pool& the_pool() {
    std::lock_guard<std::mutex> lock(creating);
    if (!pool) {
        static const int registered = pthread_atfork(nullptr, nullptr, &forget_pool);
        (void)registered;
        pool = new Pool;
    }
    return *pool;
}

// ---- reports

std::mutex reporting;
std::atomic<bool> has_failed{false};
Report* current_report = nullptr;

}  // namespace

bool failed() { return has_failed.load(std::memory_order_relaxed); }

void start_reporting(Report* report) {
    memset(report, 0, sizeof *report);
    report->argument = -1;
    current_report = report;
    has_failed = false;
}

static Report* fill_report(const char* kind, const char* format, va_list values) {
    std::lock_guard<std::mutex> lock(reporting);
    if (has_failed.exchange(true)) return nullptr;
    Report* report = current_report;
    snprintf(report->kind, KIND_LENGTH, "%s", kind);
    vsnprintf(report->text, TEXT_LENGTH, format, values);
    const uint3 b = control.block, t = control.thread;
    const uint32_t where[2][3] = {{b.x, b.y, b.z}, {t.x, t.y, t.z}};
    memcpy(report->block, where[0], sizeof where[0]);
    memcpy(report->thread, where[1], sizeof where[1]);
    return report;
}

Report* new_report(const char* kind, const char* format, ...) {
    va_list values;
    va_start(values, format);
    Report* report = fill_report(kind, format, values);
    va_end(values);
    return report;
}

void set_place(Place& place, const char* file, int line) {
    snprintf(place.file, FILE_LENGTH, "%s", file);
    place.line = line;
}

void fault(const char* kind, const char* file, int line, const char* format, ...) {
    va_list values;
    va_start(values, format);
    Report* report = fill_report(kind, format, values);
    va_end(values);
    if (report) set_place(report->place, file, line);
    block->abandon();
}

int launch(const Kernel& kernel, const Request& request) { return the_pool().run(kernel, request); }

}  // namespace dcnlab_cpu

extern "C" __attribute__((visibility("default"))) uint64_t dcnlab_report_bytes() { return sizeof(dcnlab_cpu::Report); }
