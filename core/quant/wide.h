// Loops that are compiled once for each instruction set, the loader picking; the arithmetic is the same in all,
// products and sums being fused in none (CMakeLists.txt). Not with the address sanitizer, which is not ready when it
// picks.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define L4_WIDE __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define L4_WIDE
#endif

namespace l4 {

constexpr int kLanes = 16;
using Floats = float __attribute__((vector_size(64)));
static_assert(sizeof(Floats) == kLanes * sizeof(float));

}  // namespace l4
