// A block of an emulated kernel: its threads are fibers of the calling OS thread, which run one at a time until they
// wait for one another. Everything the shadow headers of this folder call is declared here.
//
// Order is varied from launch to launch, to show what depends on it: threads run in ascending or descending order, and
// asynchronous operations (cp.async, bulk copies, wgmma) happen either when they are issued or as late as they may,
// which is when somebody waits for them.
#pragma once

#include <vector_types.h>

#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/error.h"

namespace l4::emulation {

using Where = std::source_location;
using Step = std::function<void()>;

// Operations that a thread issues, commits as groups and waits for.
class AsyncGroups {
 public:
  void issue(bool late, Step step) {
    if (late)
      open_.push_back(std::move(step));
    else
      step();
    any_open_ = true;
  }
  void commit() {
    groups_.push_back(std::move(open_));
    open_.clear();
    any_open_ = false;
  }
  void wait(size_t n_pending) {
    while (groups_.size() > n_pending) {
      std::vector<Step> group = std::move(groups_.front());
      groups_.erase(groups_.begin());
      for (Step& step : group) step();
    }
  }
  bool all_waited_for() const { return groups_.empty() && !any_open_; }

 private:
  std::vector<Step> open_;
  std::vector<std::vector<Step>> groups_;  // oldest first
  bool any_open_ = false;
};

struct Thread {
  enum class State { ready, waiting, ended };
  uint3 index{};
  int number = 0;  // in the block
  int lane() const { return number % 32; }
  int warp() const { return number / 32; }

  State state = State::ready;
  void* stack_pointer = nullptr;
  const char* waits_in = "";        // what it waits in, for reports
  const void* waits_for = nullptr;  // a barrier in shared memory
  uint32_t mask = 0;                // or a warp's threads
  Where where;
  int n_spins = 0;  // futile looks at something, since anything happened

  AsyncGroups copies, bulk_stores;
  uint64_t n_wgmma_commits = 0;
  uint64_t n_cluster_arrivals = 0;
};

// Threads that must all come before any may go on: payloads[i] is what thread i handed in, null where it has ended.
using Complete = void (*)(void** payloads);

struct Mbarrier {  // of one address in shared memory
  int n_expected = 0, n_missing = 0;
  int64_t n_missing_bytes = 0;
  uint32_t phase = 0;
  std::vector<Thread*> waiting;
};

struct WgmmaOperands {  // the same in all threads of the warpgroup
  int n = 0;
  bool a_in_registers = false, b_mn_major = false, accumulate = false, e4m3 = false;
  uint64_t a = 0, b = 0;  // descriptors
  bool operator==(const WgmmaOperands&) const = default;
};
struct WgmmaOperation {
  WgmmaOperands operands;
  float* d[128];
  uint32_t a[128][4];  // where a is in registers
};

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  bool programmatic = false, cooperative = false;
  const void* kernel = nullptr;
  unsigned cluster = 1;  // blocks along x
};

class Cluster;

class Block {
 public:
  Block(const LaunchShape& launch, uint3 index, const Step& body, uint32_t variant, Cluster* cluster = nullptr);
  ~Block();
  void run();

  const LaunchShape& launch;
  const uint3 index;
  bool late = false;  // asynchronous operations happen as late as they may
  bool waited_for_predecessor = false;

  // ---- waiting
  void wait(const char* what, Where where, const void* object = nullptr, uint32_t mask = 0);
  void wake(Thread* thread);
  void spin(const char* what, Where where, bool others_may_help);  // a futile look: lets others run

  // ---- meetings
  void meet_warp(uint32_t mask, const char* what, void* payload, Complete complete, Where where);
  void meet_warpgroup(const char* what, void* payload, Complete complete, Where where);
  void barrier(int id, int n_threads, bool waits, const char* what,
               Where where);                          // n_threads 0: all that have not ended
  int count_at_barrier(bool predicate, Where where);  // __syncthreads_count

  // ---- the cluster
  uint32_t rank() const { return index.x % launch.cluster; }
  Block& neighbour(uint32_t rank, Where where);  // which has not ended
  template <class T>
  T* address_in(const Block& other, T* p) const {  // of what is at p here
    return reinterpret_cast<T*>(place_in(other, reinterpret_cast<uintptr_t>(p)));
  }
  void cluster_arrive(Where where);
  void cluster_wait(Where where);
  bool can_go_on() const { return !ready_.empty() || !late_loads_.empty(); }

  // ---- shared memory
  unsigned char* dynamic_shared() const { return shared_; }
  bool in_shared(const void* p, size_t n_bytes) const;
  void check_shared(const void* p, size_t n_bytes, size_t alignment, const char* what, Where where) const;
  uint32_t shared_address(const void* p) const;  // of dynamic shared memory alone
  unsigned char* at_shared_address(uint32_t address, size_t n_bytes) const;

  // ---- mbarriers
  void mbarrier_init(const void* barrier, int n_arrivals, Where where);
  void mbarrier_arrive(const void* barrier, int n_arrivals, int64_t expected_bytes, int64_t arrived_bytes, Where where);
  bool mbarrier_done(const void* barrier, uint32_t parity, Where where);
  void mbarrier_wait(const void* barrier, uint32_t parity, Where where);

  // ---- the copy engine and matrix instructions: done now, or late
  void issue_load(Step step);
  void issue_wgmma(WgmmaOperation operation);
  void wait_wgmma(uint64_t n_pending);

  [[noreturn]] void fail(Where where, const std::string& what) const;

 private:
  struct Meeting {
    uint32_t mask = 0;
    const char* what = "";
    Complete complete = nullptr;
    uint32_t arrived = 0;
    void* payloads[32] = {};
  };
  struct Warpgroup {
    const char* what = nullptr;
    int n_arrived = 0;
    void* payloads[128] = {};
    std::deque<std::pair<uint64_t, WgmmaOperation>> operations;  // with their group
  };
  struct Barrier {
    int n_arrived = 0, n_threads = 0;
    std::vector<Thread*> waiting;
    std::vector<Where> of_warp;  // where each warp's first thread came; file_name "" if it did not
    int count = 0, result = 0;
  };

  static void thread_main();
  void switch_away(void** save);
  void end_thread();
  void check_meetings(int warp);
  bool complete_barrier(int id);
  bool do_late_load();
  void check_end() const;
  [[noreturn]] void report_deadlock(const char* kind) const;
  Mbarrier& mbarrier_at(const void* barrier, Where where);
  void finish_phase_if_done(Mbarrier& m);
  std::string where_is(const void* p) const;
  uintptr_t place_in(const Block& other, uintptr_t p) const;

  const Step& body_;
  std::vector<Thread> threads_;
  std::deque<Thread*> ready_;
  std::vector<std::vector<Meeting>> meetings_;  // of each warp, disjoint masks
  std::vector<uint32_t> ended_;                 // of each warp
  std::vector<Warpgroup> warpgroups_;
  Barrier barriers_[16];
  std::unordered_map<const void*, Mbarrier> mbarriers_;
  std::deque<Step> late_loads_;
  int n_ended_ = 0;
  unsigned char* shared_ = nullptr;
  const uintptr_t thread_pointer_;  // static shared memory lies before it
  Cluster* const cluster_;
  void* scheduler_stack_ = nullptr;
  std::exception_ptr error_;
};

// Of the fiber that runs now; null outside of kernels.
extern __thread Thread* current_thread;
extern __thread Block* current_block;

inline Block& block() {
  return *current_block;
}
inline Thread& thread() {
  return *current_thread;
}

// All blocks of a launch, one after another (a cooperative launch, or those of a cluster: each on an OS thread of its
// own). `body` runs the kernel once, for the current thread.
void run_kernel(const LaunchShape& launch, const Step& body);

// A kernel waits for another device (or block) and nothing happens: let the work of other streams be done.
extern void (*help_others)();

// "l4::cuda::norm_kernel<float>", from the program's own symbols.
std::string kernel_name(const void* kernel);

// wgmma's arithmetic on one operation (matrix.cpp).
void run_wgmma(const Block& block, const WgmmaOperation& operation);

}  // namespace l4::emulation
