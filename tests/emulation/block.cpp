#include "emulation/block.h"

#include <cuda_runtime.h>

#include <link.h>
#include <sched.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

#include "cluster.h"
#include "fiber.h"

constinit thread_local uint3 threadIdx{}, blockIdx{};
constinit thread_local dim3 blockDim, gridDim;

namespace l4::emulation {

__thread Thread* current_thread = nullptr;
__thread Block* current_block = nullptr;
void (*help_others)() = [] {};

namespace {

constexpr size_t kMaxShared = 232448;  // what a block may have on a Hopper GPU

// The dynamic shared memory of this OS thread's blocks. It ends (but for alignment) where the memory does, so that what
// is written past it is noticed.
struct SharedMemory {
  static constexpr size_t kBytes = (kMaxShared + 4095) / 4096 * 4096;
  unsigned char* begin = nullptr;
  SharedMemory() {
    void* p = mmap(nullptr, kBytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    L4_CHECK(p != MAP_FAILED);
    mprotect(static_cast<char*>(p) + kBytes, 4096, PROT_NONE);
    begin = static_cast<unsigned char*>(p);
  }
  ~SharedMemory() { munmap(begin, kBytes + 4096); }
};
thread_local SharedMemory t_shared;

// `__shared__` arrays are thread_local variables of the program: the size of all of those.
size_t static_shared_bytes() {
  static const size_t bytes = [] {
    size_t found = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* out) {
          for (int i = 0; i < info->dlpi_phnum; ++i)
            if (info->dlpi_phdr[i].p_type == PT_TLS) *static_cast<size_t*>(out) += info->dlpi_phdr[i].p_memsz + 4096;
          return 0;
        },
        &found);
    return found;
  }();
  return bytes;
}

std::string triple(uint3 v) {
  return cat("(", v.x, ", ", v.y, ", ", v.z, ")");
}
std::string text(Where where) {
  const std::string file = where.file_name();
  const size_t at = file.find("kernels/cuda/");
  return cat(at == std::string::npos ? file : file.substr(at), ":", where.line());
}

constexpr uint32_t kDynamicBase = 1024;  // address of the first dynamic byte; a real block's static arrays lie below

}  // namespace

Block::Block(const LaunchShape& l, uint3 i, const Step& body, uint32_t variant, Cluster* cluster)
    : launch(l),
      index(i),
      late(variant & 1),
      body_(body),
      thread_pointer_(reinterpret_cast<uintptr_t>(__builtin_thread_pointer())),
      cluster_(cluster) {
  const size_t n = size_t(l.block.x) * l.block.y * l.block.z;
  const size_t n_warps = (n + 31) / 32;
  threads_.resize(n);
  meetings_.resize(n_warps);
  ended_.resize(n_warps);
  warpgroups_.resize((n + 127) / 128);
  for (Barrier& b : barriers_) b.of_warp.resize(n_warps);
  if (n % 32) ended_.back() = ~0u << n % 32;  // threads that never were
  for (size_t t = 0; t < n; ++t) {
    Thread& thread = threads_[t];
    thread.number = int(t);
    thread.index = {unsigned(t % l.block.x), unsigned(t / l.block.x % l.block.y), unsigned(t / l.block.x / l.block.y)};
    thread.stack_pointer = prepare_stack(stack_of_fiber(t), kStackBytes, thread_main);
    if (variant & 2)
      ready_.push_front(&thread);
    else
      ready_.push_back(&thread);
  }
  const size_t room = (l.shared_bytes + 1023) / 1024 * 1024;
  shared_ = t_shared.begin + SharedMemory::kBytes - room;
  std::memset(shared_, 0xFF, room);  // NaN wherever nothing is written
}

Block::~Block() = default;

void Block::thread_main() {
  Block* const b = current_block;
  try {
    b->body_();
  } catch (...) {
    b->error_ = std::current_exception();
  }
  b->end_thread();
  void* nowhere;
  b->switch_away(&nowhere);
}

// To the next thread that can run, without one to run() itself.
void Block::switch_away(void** save) {
  if (ready_.empty() || error_) return switch_stack(save, scheduler_stack_);
  Thread* const next = ready_.front();
  ready_.pop_front();
  if (save == &next->stack_pointer) return;  // it is the only one
  current_thread = next;
  threadIdx = next->index;
  switch_stack(save, next->stack_pointer);
}

void Block::run() {
  current_block = this;
  blockIdx = index;
  blockDim = launch.block;
  gridDim = launch.grid;
  if (cluster_) cluster_->join(*this);
  while (n_ended_ < int(threads_.size()) && !error_) {
    if (cluster_ && cluster_->given_up()) return;
    if (ready_.empty()) {
      if (do_late_load()) continue;
      if (cluster_ && cluster_->hand_over(*this, true)) continue;
      try {
        report_deadlock("deadlock");
      } catch (...) {
        error_ = std::current_exception();
        break;
      }
    }
    current_thread = ready_.front();
    ready_.pop_front();
    threadIdx = current_thread->index;
    switch_stack(&scheduler_stack_, current_thread->stack_pointer);
  }
  current_thread = nullptr;
  if (!error_) {
    try {
      while (do_late_load()) {
      }
      check_end();
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  if (cluster_) error_ ? cluster_->give_up() : cluster_->leave(*this);
  current_block = nullptr;
  if (error_) std::rethrow_exception(error_);
}

void Block::end_thread() {
  Thread& t = thread();
  t.state = Thread::State::ended;
  ++n_ended_;
  ended_[size_t(t.warp())] |= 1u << t.lane();
  if (cluster_) cluster_->end(t);
  if (error_) return;
  try {
    if (!t.bulk_stores.all_waited_for())
      fail(Where(), cat("thread ", t.number, " ends without waiting for its bulk stores"));
    check_meetings(t.warp());
    complete_barrier(0);
  } catch (...) {
    error_ = std::current_exception();
  }
}

void Block::wait(const char* what, Where where, const void* object, uint32_t mask) {
  Thread& t = thread();
  t.state = Thread::State::waiting;
  t.waits_in = what;
  t.waits_for = object;
  t.mask = mask;
  t.where = where;
  switch_away(&t.stack_pointer);
}

void Block::wake(Thread* t) {
  t->state = Thread::State::ready;
  t->n_spins = 0;
  ready_.push_back(t);
}

void Block::spin(const char* what, Where where, bool others_may_help) {
  Thread& t = thread();
  t.waits_in = what;
  t.where = where;
  t.waits_for = nullptr;
  t.mask = 0;
  if (++t.n_spins % 64 == 0) {
    do_late_load();
    if (cluster_) {
      cluster_->hand_over(*this, false);
      if (cluster_->given_up()) switch_stack(&t.stack_pointer, scheduler_stack_);  // for good
    }
  }
  if (others_may_help) {  // a block or device on another OS thread
    static thread_local std::chrono::steady_clock::time_point since;
    if (t.n_spins == 1) since = std::chrono::steady_clock::now();
    if (t.n_spins % 256 == 0) {
      sched_yield();
      if (t.n_spins % 4096 == 0) help_others();
      constexpr auto kPatience = std::chrono::seconds(60);
      if (std::chrono::steady_clock::now() - since > kPatience) report_deadlock("nothing happens for a minute");
    }
  } else if (t.n_spins > 1'000'000) {
    report_deadlock("a thread looks a million times in vain");
  }
  ready_.push_back(&t);
  switch_away(&t.stack_pointer);
}

// ---- meetings -------------------------------------------------------------------------------------------------------

void Block::meet_warp(uint32_t mask, const char* what, void* payload, Complete complete, Where where) {
  Thread& t = thread();
  t.n_spins = 0;
  const uint32_t bit = 1u << t.lane();
  if (!(mask & bit)) fail(where, cat(what, ": lane ", t.lane(), " is not in its own mask ", mask));
  if (mask == bit) {
    void* payloads[32] = {};
    payloads[t.lane()] = payload;
    if (complete) complete(payloads);
    return;
  }
  std::vector<Meeting>& meetings = meetings_[size_t(t.warp())];
  Meeting* mine = nullptr;
  for (Meeting& m : meetings) {
    if (!(m.mask & mask)) continue;
    if (m.mask != mask || m.what != what)
      if (m.mask != mask || std::strcmp(m.what, what) != 0)
        fail(where, cat("thread ", t.number, " is in ", what, " with mask ", mask, " while others of its warp are in ",
                        m.what, " with mask ", m.mask));
    mine = &m;
  }
  if (!mine) {
    meetings.push_back({mask, what, complete, 0, {}});
    mine = &meetings.back();
  }
  mine->arrived |= bit;
  mine->payloads[t.lane()] = payload;
  t.state = Thread::State::waiting;
  check_meetings(t.warp());
  if (t.state == Thread::State::waiting) wait(what, where, nullptr, mask);
}

// Ends the meetings of a warp whose threads have all come (or ended).
void Block::check_meetings(int warp) {
  std::vector<Meeting>& meetings = meetings_[size_t(warp)];
  for (size_t i = 0; i < meetings.size();) {
    if ((meetings[i].arrived | ended_[size_t(warp)]) != (meetings[i].mask | ended_[size_t(warp)])) {
      ++i;
      continue;
    }
    Meeting m = meetings[i];
    meetings.erase(meetings.begin() + long(i));
    if (m.complete) m.complete(m.payloads);
    for (int lane = 0; lane < 32; ++lane) {
      if (!(m.arrived >> lane & 1)) continue;
      Thread* t = &threads_[size_t(warp * 32 + lane)];
      if (t == current_thread)
        t->state = Thread::State::ready;  // goes on at once
      else
        wake(t);
    }
  }
}

void Block::meet_warpgroup(const char* what, void* payload, Complete complete, Where where) {
  Thread& t = thread();
  const size_t group = size_t(t.number) / 128;
  if (threads_.size() < (group + 1) * 128)
    fail(where, cat(what, ": thread ", t.number, " is not in a whole warpgroup"));
  Warpgroup& g = warpgroups_[group];
  if (g.n_arrived && std::strcmp(g.what, what) != 0)
    fail(where, cat("thread ", t.number, " is in ", what, " while others of its warpgroup are in ", g.what));
  g.what = what;
  g.payloads[t.number % 128] = payload;
  if (++g.n_arrived < 128) return wait(what, where);
  g.n_arrived = 0;
  complete(g.payloads);
  for (size_t i = group * 128; i < (group + 1) * 128; ++i)
    if (&threads_[i] != &t) wake(&threads_[i]);
}

void Block::barrier(int id, int n_threads, bool waits, const char* what, Where where) {
  Thread& t = thread();
  t.n_spins = 0;
  if (id < 0 || id > 15) fail(where, cat(what, ": there is no barrier ", id));
  if (n_threads % 32 || n_threads > int(threads_.size()))
    fail(where, cat(what, ": ", n_threads, " threads at barrier ", id, " of a block of ", threads_.size()));
  Barrier& b = barriers_[id];
  if (b.n_arrived && b.n_threads != n_threads)
    fail(where,
         cat(what, ": barrier ", id, " is for ", n_threads, " threads here and for ", b.n_threads, " elsewhere"));
  Where& of_warp = b.of_warp[size_t(t.warp())];
  if (of_warp.line() == 0)
    of_warp = where;
  else if (of_warp.line() != where.line() || std::strcmp(of_warp.file_name(), where.file_name()) != 0)
    fail(where, cat(what, ": threads of warp ", t.warp(), " are at different barriers, the other at ", text(of_warp)));
  b.n_threads = n_threads;
  ++b.n_arrived;
  if (waits) b.waiting.push_back(&t);
  if (complete_barrier(id)) {
    if (waits) wait(what, where);  // woken already: the others run first
    return;
  }
  if (waits) wait(what, where, &b);
}

bool Block::complete_barrier(int id) {
  Barrier& b = barriers_[id];
  const int needed = b.n_threads ? b.n_threads : int(threads_.size()) - n_ended_;
  if (b.n_arrived == 0 || b.n_arrived < needed) return false;
  std::vector<Thread*> waiting = std::move(b.waiting);
  b.waiting.clear();
  b.n_arrived = 0;
  b.result = b.count;
  b.count = 0;
  for (Where& w : b.of_warp) w = Where();
  for (Thread* t : waiting) wake(t);
  return true;
}

int Block::count_at_barrier(bool predicate, Where where) {
  barriers_[0].count += predicate;
  barrier(0, 0, true, "__syncthreads_count", where);
  const int result = barriers_[0].result;  // before the next barrier can complete: this thread has to come to it
  return result;
}

// ---- shared memory --------------------------------------------------------------------------------------------------

bool Block::in_shared(const void* p, size_t n_bytes) const {
  const auto at = reinterpret_cast<uintptr_t>(p);
  const auto dynamic = reinterpret_cast<uintptr_t>(shared_);
  if (at >= dynamic && at + n_bytes <= dynamic + launch.shared_bytes) return true;
  const auto end = reinterpret_cast<uintptr_t>(__builtin_thread_pointer());
  return at < end && at + static_shared_bytes() >= end;
}

std::string Block::where_is(const void* p) const {
  const auto offset = static_cast<const unsigned char*>(p) - shared_;
  return offset >= 0 && offset < (1 << 20) ? cat("dynamic shared memory + ", offset)
                                           : cat("address ", reinterpret_cast<uintptr_t>(p));
}

void Block::check_shared(const void* p, size_t n_bytes, size_t alignment, const char* what, Where where) const {
  if (!in_shared(p, n_bytes))
    fail(where, cat(what, ": ", n_bytes, " bytes at ", where_is(p), " are not in shared memory (", launch.shared_bytes,
                    " bytes dynamic)"));
  if (reinterpret_cast<uintptr_t>(p) % alignment)
    fail(where, cat(what, ": ", where_is(p), " is not a multiple of ", alignment));
}

uint32_t Block::shared_address(const void* p) const {
  const auto offset = static_cast<const unsigned char*>(p) - shared_;
  if (offset < 0 || size_t(offset) > launch.shared_bytes)
    fail(Where(), "an address of shared memory is asked for, and it is not dynamic shared memory");
  return kDynamicBase + uint32_t(offset);
}

unsigned char* Block::at_shared_address(uint32_t address, size_t n_bytes) const {
  if (address < kDynamicBase || address - kDynamicBase + n_bytes > launch.shared_bytes)
    fail(Where(), cat("a tile reaches dynamic shared memory + ", int64_t(address) - kDynamicBase, ", of ",
                      launch.shared_bytes, " bytes"));
  return shared_ + (address - kDynamicBase);
}

// ---- mbarriers ------------------------------------------------------------------------------------------------------

namespace {
constexpr uint64_t kMbarrierMark = 0x4C34'4D62'6172'7269;  // what an initialised barrier's word holds here
}

void Block::mbarrier_init(const void* barrier, int n_arrivals, Where where) {
  check_shared(barrier, 8, 8, "mbarrier_init", where);
  if (n_arrivals < 1) fail(where, cat("mbarrier_init: ", n_arrivals, " arrivals"));
  *static_cast<uint64_t*>(const_cast<void*>(barrier)) = kMbarrierMark;
  mbarriers_[barrier] = {.n_expected = n_arrivals, .n_missing = n_arrivals};
}

Mbarrier& Block::mbarrier_at(const void* barrier, Where where) {
  const auto found = mbarriers_.find(barrier);
  if (found == mbarriers_.end()) fail(where, cat("there is no initialised mbarrier at ", where_is(barrier)));
  if (*static_cast<const uint64_t*>(barrier) != kMbarrierMark)
    fail(where, cat("the mbarrier at ", where_is(barrier), " was overwritten"));
  return found->second;
}

void Block::finish_phase_if_done(Mbarrier& m) {
  if (m.n_missing != 0 || m.n_missing_bytes != 0) return;
  m.phase ^= 1;
  m.n_missing = m.n_expected;
  for (Thread* t : m.waiting) wake(t);
  m.waiting.clear();
}

void Block::mbarrier_arrive(const void* barrier, int n_arrivals, int64_t expected_bytes, int64_t arrived_bytes,
                            Where where) {
  Mbarrier& m = mbarrier_at(barrier, where);
  m.n_missing_bytes += expected_bytes - arrived_bytes;
  m.n_missing -= n_arrivals;
  if (m.n_missing < 0)
    fail(where, cat("more than ", m.n_expected, " arrivals at the mbarrier at ", where_is(barrier), " in one phase"));
  finish_phase_if_done(m);
}

bool Block::mbarrier_done(const void* barrier, uint32_t parity, Where where) {
  if (parity > 1) fail(where, cat("mbarrier: a parity of ", parity));
  return mbarrier_at(barrier, where).phase != parity;
}

void Block::mbarrier_wait(const void* barrier, uint32_t parity, Where where) {
  thread().n_spins = 0;
  while (!mbarrier_done(barrier, parity, where)) {
    mbarrier_at(barrier, where).waiting.push_back(current_thread);
    wait("mbarrier_wait", where, barrier);
  }
}

// ---- asynchronous operations ----------------------------------------------------------------------------------------

void Block::issue_load(Step step) {
  if (late)
    late_loads_.push_back(std::move(step));
  else
    step();
}

bool Block::do_late_load() {
  if (late_loads_.empty()) return false;
  Step step = std::move(late_loads_.front());
  late_loads_.pop_front();
  try {
    step();
  } catch (...) {
    error_ = std::current_exception();
  }
  return true;
}

void Block::issue_wgmma(WgmmaOperation operation) {
  Warpgroup& g = warpgroups_[size_t(thread().number) / 128];
  if (!late) run_wgmma(*this, operation);
  g.operations.emplace_back(thread().n_wgmma_commits, std::move(operation));
}

void Block::wait_wgmma(uint64_t n_pending) {
  Warpgroup& g = warpgroups_[size_t(thread().number) / 128];
  while (!g.operations.empty() && g.operations.front().first + n_pending < thread().n_wgmma_commits) {
    const WgmmaOperation operation = std::move(g.operations.front().second);
    g.operations.pop_front();
    if (late) run_wgmma(*this, operation);
  }
}

// ---- reports --------------------------------------------------------------------------------------------------------

void Block::fail(Where where, const std::string& what) const {
  l4::fail(ErrorKind::device, "emulated CUDA: ", kernel_name(launch.kernel), ", block ", triple(index), ": ", what,
           where.line() ? cat(" (", text(where), ")") : std::string());
}

void Block::check_end() const {
  for (const auto& [address, m] : mbarriers_)
    if (m.n_missing_bytes != 0)
      fail(Where(),
           cat("at the end the mbarrier at ", where_is(address), " expects ", m.n_missing_bytes,
               m.n_missing_bytes > 0 ? " bytes that nobody copied" : " bytes: more were copied than it was told of"));
  for (const Warpgroup& g : warpgroups_)
    if (!g.operations.empty()) fail(Where(), "at the end there are matrix instructions that nobody waited for");
  if (launch.programmatic && !waited_for_predecessor)
    fail(Where(), "a programmatic launch whose kernel never called wait_for_predecessor()");
}

void Block::report_deadlock(const char* kind) const {
  // Threads that are in the same place, together.
  std::vector<std::pair<std::string, std::vector<int>>> places;
  for (const Thread& t : threads_) {
    std::string place = "ended";
    if (t.state != Thread::State::ended) {
      place = cat(t.waits_in[0] ? t.waits_in : "running", " at ", text(t.where));
      if (t.mask) place += cat(" with mask ", t.mask);
      if (const auto m = mbarriers_.find(t.waits_for); m != mbarriers_.end())
        place += cat(", on the mbarrier at ", where_is(t.waits_for), " (in phase ", m->second.phase, ": ",
                     m->second.n_missing, " of ", m->second.n_expected, " arrivals and ", m->second.n_missing_bytes,
                     " bytes missing)");
    }
    if (places.empty() || places.back().first != place) {
      size_t i = 0;
      while (i < places.size() && places[i].first != place) ++i;
      if (i == places.size()) places.push_back({place, {}});
      places[i].second.push_back(t.number);
    } else {
      places.back().second.push_back(t.number);
    }
  }
  std::string out;
  for (const auto& [place, numbers] : places) {
    out += out.empty() ? " threads " : "; threads ";
    for (size_t i = 0; i < numbers.size();) {
      size_t j = i;
      while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
      out += cat(i ? "," : "", numbers[i], j > i ? cat("-", numbers[j]) : std::string());
      i = j + 1;
    }
    out += cat(": ", place);
  }
  for (int id = 0; id < 16; ++id)
    if (barriers_[id].n_arrived)
      out += cat("; barrier ", id, " has ", barriers_[id].n_arrived, " of ",
                 barriers_[id].n_threads ? barriers_[id].n_threads : int(threads_.size()) - n_ended_);
  fail(Where(), cat(kind, ":", out));
}

// ---- launches -------------------------------------------------------------------------------------------------------

void run_kernel(const LaunchShape& launch, const Step& body) {
  const size_t n_threads = size_t(launch.block.x) * launch.block.y * launch.block.z;
  const std::string shape =
      cat("grid (", launch.grid.x, ", ", launch.grid.y, ", ", launch.grid.z, "), block (", launch.block.x, ", ",
          launch.block.y, ", ", launch.block.z, "), ", launch.shared_bytes, " bytes of shared memory");
  if (n_threads < 1 || n_threads > 1024 || launch.grid.y > 65535 || launch.grid.z > 65535 || launch.block.z > 64 ||
      launch.shared_bytes > kMaxShared)
    l4::fail(ErrorKind::device, "emulated CUDA: ", kernel_name(launch.kernel), " cannot be launched as ", shape);
  static std::atomic<uint32_t> g_launches;
  const uint32_t launch_number = g_launches++;
  const uint32_t n_blocks = launch.grid.x * launch.grid.y * launch.grid.z;
  auto run_block = [&](uint32_t b, Cluster* cluster) {
    Block block(launch, {b % launch.grid.x, b / launch.grid.x % launch.grid.y, b / launch.grid.x / launch.grid.y}, body,
                launch_number + b, cluster);
    block.run();
  };
  auto run_at_once = [&](uint32_t first, uint32_t n, Cluster* cluster) {
    std::mutex mutex;
    std::exception_ptr error;
    std::vector<std::thread> threads;
    for (uint32_t b = first; b < first + n; ++b)
      threads.emplace_back([&, b] {
        try {
          run_block(b, cluster);
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!error) error = std::current_exception();
        }
      });
    for (std::thread& t : threads) t.join();
    if (error) std::rethrow_exception(error);
  };
  if (launch.cooperative) {
    if (n_blocks > 64 || launch.cluster > 1)
      l4::fail(ErrorKind::device, "emulated CUDA: ", kernel_name(launch.kernel), ": a cooperative ", shape,
               " does not fit");
    return run_at_once(0, n_blocks, nullptr);
  }
  const uint32_t n_together = launch.cluster, n_turns = n_blocks / n_together;
  for (uint32_t i = 0; i < n_turns; ++i) {
    const bool backwards = launch_number / 4 % 2;
    const uint32_t first = (backwards ? n_turns - 1 - i : i) * n_together;
    if (n_together == 1) {
      run_block(first, nullptr);
    } else {
      Cluster cluster(n_together, n_threads, (launch_number + i) % n_together);
      run_at_once(first, n_together, &cluster);
    }
  }
}

}  // namespace l4::emulation
