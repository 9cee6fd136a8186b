// Threads of a block: the loop, the barriers, the meetings of a warp.
#include "block.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>

#include "fault.h"

namespace dcnlab_cpu {

constinit thread_local Control control;
constinit thread_local Block* block __attribute__((tls_model("initial-exec"))) = nullptr;

Stack::Stack() {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* memory = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, flags, -1, 0);
    base_ = memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
    if (base_) mprotect(base_, 4096, PROT_NONE);
}
Stack::~Stack() {
    if (base_) munmap(base_, STACK_BYTES);
}
// Tops are staggered: stacks that lie a multiple of 4096 bytes apart would all use the same sets of the cache.
char* Stack::top(size_t number) const { return base_ + STACK_BYTES - number % 40 * 320; }

// The same order on every machine: Fisher and Yates with the generator of Numerical Recipes.
static void shuffle(std::vector<unsigned>& order, uint32_t seed) {
    uint64_t state = seed;
    for (size_t left = order.size(); left > 1; --left) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::swap(order[left - 1], order[(state >> 33) % left]);
    }
}

void Block::begin(const Launch& launch, const void* arguments) {
    launch_ = &launch;
    arguments_ = arguments;
    const Request& request = launch.request;
    const unsigned nx = request.block[0], ny = request.block[1];
    count_ = nx * ny * request.block[2];
    threads_.resize(count_);
    warps_.resize((count_ + WARP - 1) / WARP);
    size_t ring = 1;
    while (ring < count_ + 1) ring *= 2;
    ready_.resize(ring);
    ready_mask_ = ring - 1;
    for (unsigned t = 0; t < count_; ++t) threads_[t].index = {t % nx, t / nx % ny, t / nx / ny};
    order_.clear();
    if (request.order) {
        order_.resize(count_);
        std::iota(order_.begin(), order_.end(), 0u);
        if (request.order == 1) std::reverse(order_.begin(), order_.end());
        else shuffle(order_, request.seed);
    }
    control.block_size = dim3(nx, ny, request.block[2]);
    control.grid_size = dim3(request.grid[0], request.grid[1], request.grid[2]);
    control.alone = request.workers == 1;
    control.plain = launch.kernel.plain && !request.checked && !request.order;
}

void Block::run(size_t number) {
    const Request& request = launch_->request;
    const size_t across = request.grid[0], down = request.grid[1];
    number_ = number;
    control.block = {unsigned(number % across), unsigned(number / across % down), unsigned(number / across / down)};
    started_ = done_ = waiting_ = held_ = 0;
    barrier_file_ = nullptr;
    epoch_ = 0;
    head_ = tail_ = size_t(1) << 62;
    for (Thread& thread : threads_) thread.state = State::NEW;
    for (size_t w = 0; w < warps_.size(); ++w) {
        const unsigned lanes = unsigned(std::min(WARP, count_ - WARP * w));
        warps_[w].alive = lanes == WARP ? ~0u : (1u << lanes) - 1;
        warps_[w].epoch = 0;
        warps_[w].open.clear();
    }
    free_stacks_.resize(stacks_.size());
    std::iota(free_stacks_.rbegin(), free_stacks_.rend(), 0);  // the first one last: it is taken first
    free_meetings_.clear();
    for (auto& meeting : meetings_) free_meetings_.push_back(meeting.get());
    poison_shared();
    start_fiber(worker_);
}

// A kernel that counts on shared memory being zero, or on what the last block left there, shall see NaN.
void Block::poison_shared() {
    const size_t dynamic = launch_->request.shared_bytes;
    if (dynamic_base) memset(dynamic_base, 0xff, dynamic);
    if (!shared_bytes) return;
    if (!dynamic_base) {
        memset(shared_base, 0xff, shared_bytes);
        return;
    }
    char *end = shared_base + shared_bytes, *after = dynamic_base + launch_->kernel.dynamic_limit;
    memset(shared_base, 0xff, size_t(dynamic_base - shared_base));
    if (after < end) memset(after, 0xff, size_t(end - after));
}

void Block::set_current(unsigned thread) {
    current_ = thread;
    control.number = thread;
    control.thread = threads_[thread].index;
    control.watched = true;
}

bool Block::next_thread() {
    if (started_ >= count_ || failed()) return false;
    const unsigned thread = order_.empty() ? started_ : order_[started_];
    ++started_;
    threads_[thread].state = State::RUNNING;
    set_current(thread);
    return true;
}

void Block::end_thread() {
    control.watched = false;
    threads_[current_].state = State::DONE;
    ++done_;
    Warp& warp = warps_[current_ / WARP];
    const unsigned bit = 1u << (current_ % WARP);
    warp.alive &= ~bit;
    for (Meeting* meeting : warp.open)
        if (meeting->mask & bit)
            fault("bad shuffle mask", meeting->file, meeting->line,
                  "the mask 0x%08x names lane %u, which has returned from the kernel", meeting->mask, current_ % 32);
    if (waiting_ && waiting_ == count_ - done_)
        fault("divergent barrier", barrier_file_, barrier_line_,
              "%u threads of the block wait in __syncthreads, %u have returned from the kernel", waiting_, done_);
    unsigned next;
    if (pop(next)) {
        free_stacks_.push_back(stack_);
        Context finished;
        resume(finished, next);
    }
}

int Block::take_stack() {
    if (free_stacks_.empty()) {
        stacks_.push_back(std::make_unique<Stack>());
        if (!stacks_.back()->usable()) {
            stacks_.pop_back();
            fault("out of memory", "", 0, "no room for the stacks of %zu waiting threads", stacks_.size());
        }
        return int(stacks_.size()) - 1;
    }
    const int stack = free_stacks_.back();
    free_stacks_.pop_back();
    return stack;
}

void Block::start_fiber(Context& from) {
    stack_ = take_stack();
    Context fresh;
    prepare(fresh, stacks_[size_t(stack_)]->top(size_t(stack_)), &fiber_main);
    switch_to(from, fresh);
}

void Block::fiber_main() {
    Block& self = *block;
    self.launch_->kernel.run_threads(self.arguments_);
    if (!failed() && !control.plain && self.done_ != self.count_) self.deadlock();
    self.abandon();
}

void Block::abandon() {
    control.watched = false;
    Context dropped;
    switch_to(dropped, worker_);
    __builtin_unreachable();
}

bool Block::pop(unsigned& thread) {
    if (head_ == tail_) return false;
    thread = ready_[head_++ & ready_mask_];
    return true;
}

void Block::resume(Context& from, unsigned thread) {
    threads_[thread].state = State::RUNNING;
    stack_ = threads_[thread].stack;
    set_current(thread);
    switch_to(from, threads_[thread].context);
}

// Put the running thread aside; returns when it is resumed.
void Block::wait(State state, const char* file, int line) {
    Thread& me = threads_[current_];
    me.state = state;
    me.stack = stack_;
    me.file = file;
    me.line = line;
    control.watched = false;
    unsigned next;
    if (pop(next)) resume(me.context, next);
    else if (started_ < count_) start_fiber(me.context);
    else deadlock();
}

void Block::deadlock() {
    for (unsigned t = 0; t < count_; ++t) {
        const Thread& thread = threads_[t];
        if (thread.state != State::AT_BLOCK_BARRIER && thread.state != State::AT_WARP_OPERATION) continue;
        set_current(t);
        const bool at_barrier = thread.state == State::AT_BLOCK_BARRIER;
        fault("deadlock", thread.file, thread.line, "no thread of the block can go on: %u of %u wait in __syncthreads, "
              "%u have returned, this one waits in %s", waiting_, count_, done_,
              at_barrier ? "__syncthreads" : "an operation of its warp");
    }
    abandon();
}

// Where a name hides in a macro, the launcher has not seen it.
static void refuse_in_plain_loop(const char* file, int line) {
    if (control.plain)
        fault("unsupported", file, line, "this barrier, shuffle or vote hides in a macro; write its whole name in the source");
}

int Block::barrier(int predicate, int* threads, const char* file, int line) {
    refuse_in_plain_loop(file, line);
    const bool same = !barrier_file_ || (line == barrier_line_ && !strcmp(file, barrier_file_));
    if (!same)
        fault("divergent barrier", file, line, "this thread is in this __syncthreads, %u others wait in the one at line %d",
              waiting_, barrier_line_);
    if (done_)
        fault("divergent barrier", file, line, "%u threads of the block have returned, they never come to this __syncthreads",
              done_);
    barrier_file_ = file;
    barrier_line_ = line;
    held_ += unsigned(predicate);
    if (waiting_ + 1 == count_) {
        release_barrier();
    } else {
        ++waiting_;
        wait(State::AT_BLOCK_BARRIER, file, line);
    }
    if (threads) *threads = int(last_threads_);
    return int(last_held_);
}

void Block::release_barrier() {
    for (unsigned i = 0; i < count_; ++i) {
        const unsigned thread = order_.empty() ? i : order_[i];
        if (threads_[thread].state != State::AT_BLOCK_BARRIER) continue;
        threads_[thread].state = State::READY;
        push_back(thread);
    }
    last_held_ = held_;
    last_threads_ = count_;
    waiting_ = held_ = 0;
    barrier_file_ = nullptr;
    ++epoch_;
}

Meeting* Block::meet(Operation operation, unsigned mask, const void* value, int bytes, int predicate, const char* file,
                     int line) {
    refuse_in_plain_loop(file, line);
    Warp& warp = warps_[current_ / WARP];
    const unsigned base = current_ / WARP * WARP, lane = current_ % WARP, bit = 1u << lane;
    const unsigned lanes = unsigned(std::min(WARP, size_t(count_ - base)));
    const unsigned named = mask;
    if (lanes < WARP) mask &= (1u << lanes) - 1;  // the last warp of a block may be short
    if (!(mask & bit))
        fault("bad shuffle mask", file, line, "lane %u calls with the mask 0x%08x, which does not name it", lane, named);
    if (mask & ~warp.alive)
        fault("bad shuffle mask", file, line, "the mask 0x%08x names lanes 0x%08x, which have returned from the kernel",
              named, mask & ~warp.alive);
    Meeting* meeting = nullptr;
    for (Meeting* open : warp.open) {
        if (open->mask == mask && open->operation == operation) meeting = open;
        // A lane that this one needs waits there, and needs this one.
        else if ((open->mask & bit) && (open->arrived & mask))
            fault("bad shuffle mask", file, line,
                  "lane %u calls with the mask 0x%08x while lanes 0x%08x of its warp wait for it at line %d with the mask "
                  "0x%08x",
                  lane, named, open->arrived, open->line, open->mask);
    }
    if (!meeting) {
        if (free_meetings_.empty()) {
            meetings_.push_back(std::make_unique<Meeting>());
            free_meetings_.push_back(meetings_.back().get());
        }
        meeting = free_meetings_.back();
        free_meetings_.pop_back();
        meeting->operation = operation;
        meeting->mask = mask;
        meeting->arrived = meeting->ballot = 0;
        meeting->unread = mask;
        meeting->file = file;
        meeting->line = line;
        warp.open.push_back(meeting);
    }
    meeting->arrived |= bit;
    if (predicate) meeting->ballot |= bit;
    if (bytes) memcpy(meeting->values[lane], value, size_t(bytes));
    if (meeting->arrived == mask) release(meeting);
    else wait(State::AT_WARP_OPERATION, file, line);
    return meeting;
}

void Block::release(Meeting* meeting) {
    Warp& warp = warps_[current_ / WARP];
    const unsigned base = current_ / WARP * WARP;
    std::erase(warp.open, meeting);
    if (meeting->operation == Operation::SYNC) ++warp.epoch;
    // To the front of the queue: a warp then runs on to the next barrier, and its 32 stacks stay in the cache.
    for (unsigned left = meeting->mask & ~(1u << (current_ % WARP)); left;) {
        const unsigned lane = 31u - unsigned(__builtin_clz(left));
        left &= ~(1u << lane);
        threads_[base + lane].state = State::READY;
        push_front(base + lane);
    }
}

// The last lane to read what the others brought gives the meeting back.
void Block::leave(Meeting* meeting) {
    meeting->unread &= ~(1u << (current_ % WARP));
    if (!meeting->unread) free_meetings_.push_back(meeting);
}

bool Block::on_a_stack(const void* address) const {
    if (stacks_[size_t(stack_)]->holds(address)) return true;
    for (const auto& stack : stacks_)
        if (stack->holds(address)) return true;
    return false;
}

// ---- what the kernel calls

bool next_thread() { return block->next_thread(); }
void end_thread() { block->end_thread(); }
int block_barrier(int predicate, int* threads, const char* file, int line) {
    return block->barrier(predicate, threads, file, line);
}
void warp_barrier(unsigned mask, const char* file, int line) {
    block->leave(block->meet(Operation::SYNC, mask, nullptr, 0, 0, file, line));
}
void exchange(unsigned mask, const void* mine, void* theirs, int bytes, int source, const char* file, int line) {
    Meeting* meeting = block->meet(Operation::SHUFFLE, mask, mine, bytes, 0, file, line);
    const bool named = source >= 0 && source < int(WARP) && ((mask >> source) & 1u);
    if (!named || !((meeting->mask >> source) & 1u))
        fault("bad shuffle mask", file, line, "lane %d reads from lane %d, %s (mask 0x%08x)", int(block->thread() % WARP),
              source, named ? "which this short warp does not have" : "which the mask does not name", mask);
    memcpy(theirs, meeting->values[source], size_t(bytes));
    block->leave(meeting);
}
unsigned ballot(unsigned mask, int predicate, const char* file, int line) {
    Meeting* meeting = block->meet(Operation::VOTE, mask, nullptr, 0, predicate, file, line);
    const unsigned result = meeting->ballot;
    block->leave(meeting);
    return result;
}
unsigned active_lanes() { return block->alive_lanes(); }
void stop(const char* kind, const char* text, const char* file, int line) { fault(kind, file, line, "%s", text); }

}  // namespace dcnlab_cpu
