// One block of threads on one worker.
//
// Threads run one after the other in a loop on a single stack. A thread that has to wait (at a barrier, a shuffle, a
// vote) keeps that stack; the loop goes on with the next thread on a fresh one. When all have arrived, the waiting
// threads are resumed where they stopped. A kernel without barriers therefore never leaves the first stack.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../control.h"
#include "fiber.h"

namespace dcnlab_cpu {

// One launch as the workers see it.
struct Launch {
    const Kernel& kernel;
    const Request& request;
    std::vector<void*> values;  // pointers to the arguments, in order
    size_t blocks;
};

constexpr size_t STACK_BYTES = 256 * 1024;
constexpr size_t WARP = 32;

// Memory of a fiber, with a page that traps below it.
class Stack {
public:
    Stack();
    ~Stack();
    Stack(const Stack&) = delete;
    bool usable() const { return base_; }
    bool holds(const void* p) const { return p >= base_ && p < base_ + STACK_BYTES; }
    char* top(size_t number) const;

private:
    char* base_;
};

enum class State : uint8_t { NEW, RUNNING, READY, AT_BLOCK_BARRIER, AT_WARP_OPERATION, DONE };
enum class Operation : uint8_t { SYNC, SHUFFLE, VOTE };

// Lanes of one warp that meet for a barrier, shuffle or vote. Several with disjoint masks can be under way.
struct Meeting {
    Operation operation;
    unsigned mask, arrived, unread, ballot;
    const char* file;
    int line;
    alignas(16) unsigned char values[WARP][16];
};

struct Thread {
    Context context;
    uint3 index;
    int stack;
    State state;
    const char* file;  // where it waits
    int line;
};

struct Warp {
    unsigned alive;
    uint32_t epoch;  // counts __syncwarp, for the race detector
    std::vector<Meeting*> open;
};

class Block {
public:
    void begin(const Launch& launch, const void* arguments);  // before the blocks of a launch
    void run(size_t number);
    // Called by the kernel, through control.h:
    bool next_thread();
    void end_thread();
    int barrier(int predicate, int* threads, const char* file, int line);
    Meeting* meet(Operation operation, unsigned mask, const void* value, int bytes, int predicate, const char* file,
                  int line);
    void leave(Meeting* meeting);
    unsigned alive_lanes() const { return warps_[current_ / WARP].alive; }
    [[noreturn]] void abandon();  // back to the worker; what the threads still had to do is dropped
    // Asked by the checker:
    bool on_a_stack(const void* address) const;
    size_t number() const { return number_; }
    unsigned thread() const { return current_; }
    uint32_t epoch() const { return epoch_; }
    uint32_t warp_epoch(unsigned thread) const { return warps_[thread / WARP].epoch; }
    uint3 thread_index(unsigned thread) const { return threads_[thread].index; }
    const Launch& launch() const { return *launch_; }
    // Static __shared__ variables of this worker.
    char* shared_base = nullptr;
    size_t shared_bytes = 0;
    char* dynamic_base = nullptr;

private:
    static void fiber_main();
    void poison_shared();
    void set_current(unsigned thread);
    int take_stack();
    void start_fiber(Context& from);
    void resume(Context& from, unsigned thread);
    void wait(State state, const char* file, int line);
    void release_barrier();
    void release(Meeting* meeting);
    [[noreturn]] void deadlock();
    void push_back(unsigned thread) { ready_[tail_++ & ready_mask_] = thread; }
    void push_front(unsigned thread) { ready_[--head_ & ready_mask_] = thread; }
    bool pop(unsigned& thread);

    const Launch* launch_ = nullptr;
    const void* arguments_ = nullptr;
    size_t number_ = 0;
    unsigned count_ = 0, started_ = 0, done_ = 0, current_ = 0;
    // The barrier that is filling up, and what the last complete one counted.
    unsigned waiting_ = 0, held_ = 0, last_held_ = 0, last_threads_ = 0;
    const char* barrier_file_ = nullptr;
    int barrier_line_ = 0;
    uint32_t epoch_ = 0;
    std::vector<Thread> threads_;
    std::vector<Warp> warps_;
    std::vector<unsigned> order_;  // in which the threads start; empty: by number
    std::vector<unsigned> ready_;  // a ring: `head_` runs next
    size_t head_ = 0, tail_ = 0, ready_mask_ = 0;
    std::vector<std::unique_ptr<Stack>> stacks_;
    std::vector<int> free_stacks_;
    int stack_ = -1;  // that the running thread stands on
    Context worker_;
    std::vector<std::unique_ptr<Meeting>> meetings_;
    std::vector<Meeting*> free_meetings_;
};

extern constinit thread_local Block* block __attribute__((tls_model("initial-exec")));  // of this worker; lives as long as the thread

}  // namespace dcnlab_cpu
