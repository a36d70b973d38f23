#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace l4::cuda {

inline uint4 load_once16(const void* global, L4_WHERE) {
  if (reinterpret_cast<uintptr_t>(global) % 16) emulation::block().fail(where, "a 16-byte load at an odd address");
  return *static_cast<const uint4*>(global);
}
inline uint4 load_once16_ahead(const void* global, L4_WHERE) {
  return load_once16(global, where);
}

// Looks at what another block or GPU writes: each lets the others run.
inline uint32_t load_acquire_sys(const uint32_t* p, L4_WHERE) {
  emulation::block().spin("load_acquire", where, true);
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
inline uint32_t load_acquire_gpu(const uint32_t* p, L4_WHERE) {
  return load_acquire_sys(p, where);
}
inline uint32_t load_relaxed_sys(const uint32_t* p, L4_WHERE) {
  return load_acquire_sys(p, where);
}
inline void store_relaxed_gpu(uint32_t* p, uint32_t v) {
  __atomic_store_n(p, v, __ATOMIC_RELAXED);
}
inline void store_release_gpu(uint32_t* p, uint32_t v) {
  __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
inline void store_release_sys(uint32_t* p, uint32_t v) {
  __atomic_store_n(p, v, __ATOMIC_RELEASE);
}
inline void store_relaxed_sys(uint32_t* p, uint32_t v) {
  __atomic_store_n(p, v, __ATOMIC_RELAXED);
}
inline void add_release_gpu(uint32_t* p, uint32_t v) {
  __atomic_fetch_add(p, v, __ATOMIC_RELEASE);
}
inline void add_release_sys(uint32_t* p, uint32_t v) {
  __atomic_fetch_add(p, v, __ATOMIC_RELEASE);
}
inline uint32_t fetch_add_gpu(uint32_t* p, uint32_t v) {
  emulation::atomic_happens();
  return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}

inline uint32_t fetch_add_relaxed_gpu(uint32_t* p, uint32_t v) {
  return fetch_add_gpu(p, v);
}

inline uint4 load_volatile16(const void* p, L4_WHERE) {
  emulation::block().spin("load_volatile16", where, true);
  uint64_t halves[2];
  for (int i = 0; i < 2; ++i) halves[i] = __atomic_load_n(static_cast<const uint64_t*>(p) + i, __ATOMIC_ACQUIRE);
  return std::bit_cast<uint4>(halves);
}
inline void store_volatile16(void* p, uint4 v) {
  uint64_t halves[2];
  std::memcpy(halves, &v, 16);
  for (int i = 0; i < 2; ++i) __atomic_store_n(static_cast<uint64_t*>(p) + i, halves[i], __ATOMIC_RELEASE);
}

}  // namespace l4::cuda
