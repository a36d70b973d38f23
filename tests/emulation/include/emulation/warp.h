// The intrinsics of a warp and of a block, and atomics: CUDA's names.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <type_traits>

#include "emulation/block.h"

namespace l4::emulation {

// What each lane of a shuffle hands in and gets.
struct Shuffle {
  uint64_t value;
  int source;  // lane
  uint64_t result;
  static void complete(void** payloads) {
    for (int lane = 0; lane < 32; ++lane)
      if (auto p = static_cast<Shuffle*>(payloads[lane])) {
        auto from = static_cast<Shuffle*>(payloads[p->source & 31]);
        p->result = from ? from->value : ~0ull;  // undefined in CUDA
      }
  }
};
template <class T>
T shuffle(uint32_t mask, T value, int source, const char* what, Where where) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  Shuffle s{0, source, 0};
  std::memcpy(&s.value, &value, sizeof(T));
  block().meet_warp(mask, what, &s, Shuffle::complete, where);
  std::memcpy(&value, &s.result, sizeof(T));
  return value;
}

// Votes and reductions: every lane gets all lanes' values.
struct Gather {
  uint64_t value;
  uint32_t present;
  uint64_t values[32];
  static void complete(void** payloads) {
    for (int lane = 0; lane < 32; ++lane)
      if (auto p = static_cast<Gather*>(payloads[lane])) {
        p->present = 0;
        for (int i = 0; i < 32; ++i)
          if (auto from = static_cast<Gather*>(payloads[i])) p->present |= 1u << i, p->values[i] = from->value;
      }
  }
};
template <class T>
Gather gather(uint32_t mask, T value, const char* what, Where where) {
  Gather g{};
  std::memcpy(&g.value, &value, sizeof(T));
  block().meet_warp(mask, what, &g, Gather::complete, where);
  return g;
}
template <class T, class Join>
T reduce(uint32_t mask, T value, const char* what, Where where, Join join) {
  const Gather g = gather(mask, value, what, where);
  bool first = true;
  T out{};
  for (int i = 0; i < 32; ++i)
    if (g.present >> i & 1) {
      T v;
      std::memcpy(&v, &g.values[i], sizeof(T));
      out = first ? v : join(out, v);
      first = false;
    }
  return out;
}

// Loops over atomics wait for others: now and then they are let run.
inline void atomic_happens() {
  static thread_local unsigned n = 0;
  if (current_block && ++n % 256 == 0) {
    thread().n_spins = 0;
    block().spin("an atomic operation", Where(), true);
  }
}

template <class T>
std::atomic_ref<T> atomic(T* p) {
  atomic_happens();
  return std::atomic_ref<T>(*p);
}
template <class T, class Join>
T atomic_join(T* p, Join join) {
  std::atomic_ref<T> ref = atomic(p);
  T old = ref.load();
  while (!ref.compare_exchange_weak(old, join(old))) {
  }
  return old;
}

}  // namespace l4::emulation

// clang-format off
#define L4_WHERE ::l4::emulation::Where where = ::l4::emulation::Where::current()

inline void __syncthreads(L4_WHERE) { ::l4::emulation::block().barrier(0, 0, true, "__syncthreads", where); }
inline int __syncthreads_count(int predicate, L4_WHERE) { return ::l4::emulation::block().count_at_barrier(predicate != 0, where); }
inline int __syncthreads_or(int predicate, L4_WHERE) { return ::l4::emulation::block().count_at_barrier(predicate != 0, where) != 0; }
inline int __syncthreads_and(int predicate, L4_WHERE) { return ::l4::emulation::block().count_at_barrier(predicate == 0, where) == 0; }
inline void __syncwarp(unsigned mask = 0xffffffffu, L4_WHERE) { ::l4::emulation::block().meet_warp(mask, "__syncwarp", nullptr, nullptr, where); }

template <class T>
T __shfl_sync(unsigned mask, T v, int source, int width = 32, L4_WHERE) {
  const int lane = ::l4::emulation::thread().lane();
  return ::l4::emulation::shuffle(mask, v, lane / width * width + (source & (width - 1)), "__shfl_sync", where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int lane_mask, int width = 32, L4_WHERE) {
  const int lane = ::l4::emulation::thread().lane(), source = lane ^ lane_mask;
  return ::l4::emulation::shuffle(mask, v, source >= (lane / width + 1) * width ? lane : source, "__shfl_xor_sync", where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32, L4_WHERE) {
  const int lane = ::l4::emulation::thread().lane(), source = lane + int(delta);
  return ::l4::emulation::shuffle(mask, v, source >= (lane / width + 1) * width ? lane : source, "__shfl_down_sync", where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32, L4_WHERE) {
  const int lane = ::l4::emulation::thread().lane(), source = lane - int(delta);
  return ::l4::emulation::shuffle(mask, v, source < lane / width * width ? lane : source, "__shfl_up_sync", where);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, L4_WHERE) {
  const auto g = ::l4::emulation::gather(mask, predicate != 0, "__ballot_sync", where);
  unsigned out = 0;
  for (int i = 0; i < 32; ++i) out |= unsigned((g.present >> i & 1) && g.values[i]) << i;
  return out;
}
inline int __any_sync(unsigned mask, int predicate, L4_WHERE) {
  return ::l4::emulation::reduce(mask, int(predicate != 0), "__any_sync", where, [](int a, int b) { return a | b; });
}
inline int __all_sync(unsigned mask, int predicate, L4_WHERE) {
  return ::l4::emulation::reduce(mask, int(predicate != 0), "__all_sync", where, [](int a, int b) { return a & b; });
}
template <class T>
unsigned __match_any_sync(unsigned mask, T v, L4_WHERE) {
  const auto g = ::l4::emulation::gather(mask, v, "__match_any_sync", where);
  unsigned out = 0;
  for (int i = 0; i < 32; ++i) out |= unsigned((g.present >> i & 1) && g.values[i] == g.value) << i;
  return out;
}
template <class T>
unsigned __match_all_sync(unsigned mask, T v, int* all, L4_WHERE) {
  const auto g = ::l4::emulation::gather(mask, v, "__match_all_sync", where);
  *all = 1;
  for (int i = 0; i < 32; ++i) if ((g.present >> i & 1) && g.values[i] != g.value) *all = 0;
  return *all ? mask : 0;
}
#define L4_REDUCE(name, type, expression)                                                                          \
  inline type name(unsigned mask, type v, L4_WHERE) {                                                              \
    return ::l4::emulation::reduce(mask, v, #name, where, [](type a, type b) -> type { return expression; });      \
  }
L4_REDUCE(__reduce_add_sync, int, a + b) L4_REDUCE(__reduce_add_sync, unsigned, a + b)
L4_REDUCE(__reduce_min_sync, int, std::min(a, b)) L4_REDUCE(__reduce_min_sync, unsigned, std::min(a, b))
L4_REDUCE(__reduce_max_sync, int, std::max(a, b)) L4_REDUCE(__reduce_max_sync, unsigned, std::max(a, b))
L4_REDUCE(__reduce_and_sync, unsigned, a & b) L4_REDUCE(__reduce_or_sync, unsigned, a | b) L4_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
#undef L4_REDUCE
inline unsigned __activemask() { return 0xffffffffu; }

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() {}
inline void __threadfence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __nanosleep(unsigned, L4_WHERE) { ::l4::emulation::block().spin("__nanosleep", where, true); }
[[noreturn]] inline void l4_trap(L4_WHERE) { ::l4::emulation::block().fail(where, "__trap"); }
#define __trap() l4_trap()
inline long long clock64() { return (long long)(__builtin_ia32_rdtsc()); }
inline clock_t clock() noexcept { return clock_t(clock64()); }

#define L4_ATOMIC(name, type, expression)                                                                          \
  inline type name(type* p, type v) { return ::l4::emulation::atomic_join(p, [=](type old) -> type { return expression; }); }
#define L4_ATOMICS(type)                                                                                           \
  L4_ATOMIC(atomicAdd, type, old + v) L4_ATOMIC(atomicExch, type, (void(old), v))                                  \
  L4_ATOMIC(atomicMin, type, v < old ? v : old) L4_ATOMIC(atomicMax, type, v > old ? v : old)
#define L4_BIT_ATOMICS(type)                                                                                       \
  L4_ATOMIC(atomicAnd, type, old & v) L4_ATOMIC(atomicOr, type, old | v) L4_ATOMIC(atomicXor, type, old ^ v)      \
  inline type atomicCAS(type* p, type expected, type v) {                                                          \
    ::l4::emulation::atomic(p).compare_exchange_strong(expected, v);                                               \
    return expected;                                                                                               \
  }
L4_ATOMICS(int) L4_ATOMICS(unsigned) L4_ATOMICS(unsigned long long) L4_ATOMICS(float) L4_ATOMICS(double)
L4_BIT_ATOMICS(int) L4_BIT_ATOMICS(unsigned) L4_BIT_ATOMICS(unsigned long long)
L4_ATOMIC(atomicSub, int, old - v) L4_ATOMIC(atomicSub, unsigned, old - v)
L4_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1) L4_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
#undef L4_ATOMIC
#undef L4_ATOMICS
#undef L4_BIT_ATOMICS
    // clang-format on
